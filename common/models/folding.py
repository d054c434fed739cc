"""A network for attacks: in eval mode, batch normalization becomes part of the convolution before it.

In eval mode batch normalization is y ↦ (y − mean) / √(var + eps) × weight + bias, with constants; so one convolution
with other weights does the work of both (Jacob et al. 2018, arXiv 1712.05877, equation 14). An attack goes through the
network many times while the weights do not change: they are folded once a batch.
"""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from common.models.networks import BasicBlock, GridMean, Normalize


class Folded(nn.Module):
    """Computes what ``model`` computes in eval mode, up to rounding; folded weights pass on gradients and get none.

    The parts that are not folded are the model's own; put the model into eval mode while this one runs. Where a GPU's
    cuDNN can, ReLU and the sum of a residual block are computed inside the convolution.

    Args:
        model: any network; see ``folds`` for what is recognized in it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._network = _fold(model)
        self._convolutions = [part for part in self._network.modules() if isinstance(part, FoldedConv)]

    @staticmethod
    def folds(model: nn.Module) -> bool:
        """Tell whether this network has anything to fold."""
        return Folded.pairs(model) > 0

    @staticmethod
    def pairs(model: nn.Module) -> int:
        """Count the batch normalizations of a network that follow a convolution in an ``nn.Sequential``."""
        chains = [list(part) for part in model.modules() if _is_chain(part)]
        return len({norm for chain in chains for conv, norm in pairwise(chain) if _is_pair(conv, norm)})

    def refresh(self) -> None:
        """Fold the model's weights and statistics as they are now; in bfloat16 under autocast to it."""
        for convolution in self._convolutions:
            convolution.refresh()

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits [B,N] of pixels [B,3,H,W]."""
        logits: Tensor = self._network(pixels.contiguous(memory_format=torch.channels_last))
        return logits.float()


class FoldedConv(nn.Module):
    """A convolution with folded batch normalization, the sum of a residual block where there is one, and maybe ReLU.

    Args:
        conv: the convolution.
        norm: what follows it.
        relu: whether ReLU comes last.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, relu: bool) -> None:
        super().__init__()
        self._source: tuple[nn.Conv2d, nn.BatchNorm2d] = (conv, norm)  # in a tuple: no part of this module
        self._relu = relu
        self._folded: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
        self.weight = self.bias = torch.empty(0)

    def refresh(self) -> None:
        """Fold again, into the same memory: a recorded CUDA graph reads it there."""
        conv, norm = self._source
        device = conv.weight.device.type
        half = torch.is_autocast_enabled(device)
        kind = torch.get_autocast_dtype(device) if half else conv.weight.dtype
        with torch.no_grad(), torch.autocast(device, enabled=False):
            weight, bias = fold_batch_norm(conv, norm)
            if kind not in self._folded:
                empty = torch.empty_like(weight, dtype=kind, memory_format=torch.channels_last)
                self._folded[kind] = empty, torch.empty_like(bias, dtype=kind)
            self.weight, self.bias = self._folded[kind]
            self.weight.copy_(weight)
            self.bias.copy_(bias)

    def forward(self, features: Tensor, residual: Tensor | None = None) -> Tensor:
        """[B,C,H,W], and [B,D,H',W'] to be added to the convolution, -> [B,D,H',W']."""
        conv = self._source[0]
        if features.is_cuda and self._relu and _cudnn_takes(conv):
            features = features.to(self.weight.dtype)
            stride, padding = list(conv.stride), list(conv.padding)
            out: Tensor = _ConvReLU.apply(features, self.weight, self.bias, stride, padding, residual)
            return out
        out = conv._conv_forward(features, self.weight, self.bias)
        if residual is not None:
            out = out + residual
        return F.relu(out) if self._relu else out


class _QuickNormalize(nn.Module):
    """``Normalize`` as one kernel."""

    def __init__(self, slow: Normalize) -> None:
        super().__init__()
        self.register_buffer("mean", slow.mean.flatten(), persistent=False)
        self.register_buffer("variance", slow.std.flatten() ** 2, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        # torch before 2.12 takes no eps of 0; this one is too small to change any variance by a bit.
        return F.batch_norm(pixels, self.get_buffer("mean"), self.get_buffer("variance"), eps=1e-30)


class _QuickGridMean(nn.Module):
    """``GridMean`` as one kernel."""

    def __init__(self, slow: GridMean) -> None:
        super().__init__()
        self.cells = slow.cells

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[2:]
        return F.avg_pool2d(features, (height // self.cells, width // self.cells)).flatten(1)


class _FoldedBlock(nn.Module):
    """``BasicBlock`` with ReLU, its sum inside the second convolution."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        first, first_norm, _, second, second_norm = block.body
        self.first = FoldedConv(first, first_norm, relu=True)  # type: ignore[arg-type]
        self.second = FoldedConv(second, second_norm, relu=True)  # type: ignore[arg-type]
        self.shortcut = _fold(block.shortcut)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(features), self.shortcut(features))
        return out


class _ConvReLU(torch.autograd.Function):
    """relu(conv(x, weight) + bias [+ residual]) as one kernel of cuDNN; weight and bias get no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        stride: list[int],
        padding: list[int],
        residual: Tensor | None,
    ) -> Tensor:
        if residual is None:
            out = torch.cudnn_convolution_relu(x, weight, bias, stride, padding, [1, 1], 1)
        else:
            residual = residual.to(weight.dtype)
            out = torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, stride, padding, [1, 1], 1)
        ctx.save_for_backward(x, weight, out)
        ctx.geometry = stride, padding, residual is not None
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        stride, padding, has_residual = ctx.geometry
        gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        only_input = [True, False, False]
        to_input = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, stride, padding, [1, 1], False, [0, 0], 1, only_input
        )[0]
        return to_input, None, None, None, None, gradient if has_residual else None


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight [D,C,k,k] and bias [D] of the convolution that does what both do in eval mode."""
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = torch.rsqrt(variance + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    if norm.affine:
        shift = shift + norm.bias
    return conv.weight * scale.view(-1, 1, 1, 1), shift


def _fold(module: nn.Module) -> nn.Module:
    """Return the network with its pairs folded; what has none is the module itself, not a copy."""
    if _is_plain(module, Normalize):
        return _QuickNormalize(module)  # type: ignore[arg-type]
    if _is_plain(module, GridMean):
        return _QuickGridMean(module)  # type: ignore[arg-type]
    if not Folded.folds(module):
        return module
    if isinstance(module, BasicBlock) and _is_relu_block(module):
        return _FoldedBlock(module)
    if _is_chain(module):
        return nn.Sequential(*_fold_chain(list(module)))
    twin = copy.copy(module)
    twin.training = False
    twin._modules = {name: None if part is None else _fold(part) for name, part in module._modules.items()}
    return twin


def _fold_chain(parts: list[nn.Module]) -> Iterator[nn.Module]:
    place = 0
    while place < len(parts):
        behind = parts[place + 1 : place + 3]
        if behind and _is_pair(parts[place], behind[0]):
            relu = len(behind) == 2 and _is_plain(behind[1], nn.ReLU)
            yield FoldedConv(parts[place], behind[0], relu)  # type: ignore[arg-type]
            place += 3 if relu else 2
        else:
            yield _fold(parts[place])
            place += 1


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether a module is of exactly this class and has no hooks."""
    return type(module) is kind and not _has_hooks(module)


def _has_hooks(module: nn.Module) -> bool:
    return any(value for name, value in vars(module).items() if name.endswith("_hooks"))


def _is_pair(first: nn.Module, second: nn.Module) -> bool:
    return _is_plain(first, nn.Conv2d) and _is_plain(second, nn.BatchNorm2d) and second.running_mean is not None


def _is_chain(module: nn.Module) -> TypeGuard[nn.Sequential]:
    same = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    return same and not _has_hooks(module)


def _is_relu_block(block: BasicBlock) -> bool:
    first, norm, activation, second, last = block.body
    relus = _is_plain(activation, nn.ReLU) and _is_plain(block.activation, nn.ReLU)
    pairs = _is_chain(block.body) and _is_pair(first, norm) and _is_pair(second, last)
    return relus and pairs and _is_plain(block, BasicBlock)


def _cudnn_takes(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros" and conv.padding != "same"
