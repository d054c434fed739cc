"""Networks from pixels in [0, 1] to logits. Normalization is a layer, so that an attack always works on pixels."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from common.models.activations import ACTIVATIONS
from common.models.external import borrow, is_borrowed
from common.models.modes import keep_modes, keep_statistics
from common.seeding import seed_for

MakeActivation = Callable[[], nn.Module]
MakeNorm = Callable[[int], nn.Module]  # from a number of channels

# Per-channel mean and standard deviation of CIFAR-10's training pixels, on the [0, 1] scale.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


class Normalize(nn.Module):
    """Subtract the channel means and divide by the standard deviations; constants, so not part of the state."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalize pixels [B,3,H,W]."""
        return (pixels - self.mean) / self.std


class ChannelsLast(nn.Module):
    """Lay images out as [B,H,W,C] in memory, without changing their shape."""

    def forward(self, images: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C,H,W]."""
        return images.contiguous(memory_format=torch.channels_last)


class GridMean(nn.Module):
    """Mean over each cell of a grid; unlike adaptive pooling, its gradient is deterministic on a GPU.

    Args:
        cells: rows and columns of the grid; height and width must be multiples of it.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,H,W] -> [B, C × cells × cells]."""
        batch, channels, height, width = features.shape
        grid = features.view(batch, channels, self.cells, height // self.cells, self.cells, width // self.cells)
        return grid.mean((3, 5)).flatten(1)


def group_norm(channels: int) -> nn.Module:
    """Group normalization (Wu and He 2018, arXiv 1803.08494, equation 7), in two groups; in one for an odd number.

    It sees each image alone, so there are no statistics of other images to keep or to send. Two groups are what
    federations use (Reddi et al. 2021, arXiv 2003.00295), and go with narrow networks.
    """
    return nn.GroupNorm(1 if channels % 2 else 2, channels)


def _conv(inputs: int, outputs: int, kernel: int, stride: int, norm: MakeNorm) -> list[nn.Module]:
    """Convolution and normalization; padded so that stride 1 keeps the size."""
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), norm(outputs)]


class BasicBlock(nn.Module):
    """The residual block of ResNet-18 (He et al. 2016, arXiv 1512.03385, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: MakeActivation, norm: MakeNorm) -> None:
        super().__init__()
        first, second = _conv(inputs, outputs, 3, stride, norm), _conv(outputs, outputs, 3, 1, norm)
        self.body = nn.Sequential(*first, activation(), *second)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv(inputs, outputs, 1, stride, norm))
        self.activation = activation()

    def forward(self, features: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,outputs,H/stride,W/stride]."""
        out: Tensor = self.activation(self.body(features) + self.shortcut(features))
        return out


def resnet18(
    classes: int, width: int, activation: MakeActivation, downsample: bool, stem: str, norm: MakeNorm
) -> nn.Module:
    """ResNet-18 (He et al. 2016), by default with a 3×3 stem and no max pooling, for small images.

    The stem ``imagenet`` is the original's: a 7×7 convolution of stride 2, then max pooling. With ``downsample`` the
    stages have strides 1, 2, 2, 2 (with the small stem, the usual CIFAR ResNet-18); without it every stride is 1 and
    the feature maps keep the size of the image, the other reading of arXiv 2512.04264, at 20.6 times the arithmetic.
    """
    layers: list[nn.Module] = [Normalize()]
    if stem == "imagenet":
        layers += [*_conv(3, width, 7, 2, norm), activation(), nn.MaxPool2d(3, 2, 1)]
    else:
        layers += [*_conv(3, width, 3, 1, norm), activation()]
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        stride = 2 if downsample and stage > 0 else 1
        layers.append(BasicBlock(inputs, outputs, stride, activation, norm))
        layers.append(BasicBlock(outputs, outputs, 1, activation, norm))
        inputs = outputs
    return nn.Sequential(*layers, GridMean(1), nn.Linear(inputs, classes))


def cnn(classes: int, width: int, activation: MakeActivation, downsample: bool, stem: str, norm: MakeNorm) -> nn.Module:
    """Three convolutions of ``width``, 2×``width`` and 4×``width`` channels, for CPUs.

    ``downsample`` gives the second and third convolution stride 2.
    """
    stride = 2 if downsample else 1
    return nn.Sequential(
        Normalize(),
        *_conv(3, width, 3, 1, norm),
        activation(),
        *_conv(width, 2 * width, 3, stride, norm),
        activation(),
        *_conv(2 * width, 4 * width, 3, stride, norm),
        activation(),
        GridMean(4),
        nn.Linear(4 * width * 4 * 4, classes),
    )


def cnn2(
    classes: int, width: int, activation: MakeActivation, downsample: bool, stem: str, norm: MakeNorm
) -> nn.Module:
    """Two convolutions and a hidden layer: at width 32 ``simple_cnn``, the CIFAR-10 network of apple/pfl-research.

    A relative of the network of McMahan et al. 2017 (arXiv 1602.05629): 3×3 convolutions of ``width`` and 2×``width``
    channels without padding, a hidden layer of 4×``width``, dropout, no batch normalization; 1,626,442 weights at width
    32. The hidden layer sees every pixel of the feature maps, so the images must be 32×32.

    ``downsample`` halves the feature maps by max pooling, as the original does; channels come last in memory, as there.
    """
    side = 14 if downsample else 28
    model = nn.Sequential(
        Normalize(),
        ChannelsLast(),
        nn.Conv2d(3, width, 3),
        activation(),
        nn.Conv2d(width, 2 * width, 3),
        activation(),
        nn.MaxPool2d(2) if downsample else nn.Identity(),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(2 * width * side * side, 4 * width),
        activation(),
        nn.Dropout(0.5),
        nn.Linear(4 * width, classes),
    )
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)  # as the original does
    return model


def build_model(
    name: str,
    classes: int,
    width: int,
    activation: str,
    downsample: bool,
    seed: int,
    stem: str = "small",
    image_size: int = 32,
    norm: str = "batch",
) -> nn.Module:
    """Build a freshly initialized network; the same arguments give the same weights.

    Args:
        name: a key of ``MODELS``, or a network of ``common.models.external``, whose initial weights stay as they are.
        classes: number of logits.
        width: channels of the first stage.
        activation: a key of ``ACTIVATIONS``. Convolutions start with PyTorch's weights times its gain over ReLU's.
            (He's own scale is √6 times as large; behind batch normalization that only slows learning down, see
            docs/method.md.)
        downsample: whether strides shrink the feature maps.
        seed: the run's seed.
        stem: ``small`` or ``imagenet`` (resnet18 alone).
        image_size: side of the images, in pixels, for networks that must know it.
        norm: a key of ``NORMS``; cnn2 has none.

    Raises:
        FedShieldError: an external network does not exist, or does not accept such images.
    """
    kind = ACTIVATIONS[activation]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "model"))
        if is_borrowed(name):
            options = {"classes": classes, "width": width, "activation": kind.make, "image_size": image_size}
            options |= {"downsample": downsample, "stem": stem, "norm": norm}
            return borrow(name, Normalize(), options, image_size)
        model = MODELS[name](classes, width, kind.make, downsample, stem, NORMS[norm])
        if name != "cnn2":  # which has the original's own
            for layer in model.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.weight.data *= kind.gain / ACTIVATIONS["relu"].gain
    return model


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights that were sent or stored, as ``load_state_dict`` does.

    They have lost the version that PyTorch notes for each module. A module that reads it, such as torchvision's
    MNASNet, would take them for weights of its first version.

    Raises:
        RuntimeError: they are not this network's.
    """
    whole = OrderedDict(state)
    whole._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(whole)


def copies_on_cpu(tensors: Collection[Tensor]) -> list[Tensor]:
    """Return contiguous copies of weights on the CPU, which nobody changes; those on a GPU are copied together."""
    given = [tensor.detach() for tensor in tensors]
    if not any(tensor.is_cuda for tensor in given):
        return [tensor.to("cpu", copy=True).contiguous() for tensor in given]
    copied: dict[int, Tensor] = {}
    for kind in {tensor.dtype for tensor in given}:
        places = [place for place, tensor in enumerate(given) if tensor.dtype == kind]
        flat = torch.cat([given[place].contiguous().view(-1) for place in places])
        there = torch.empty(flat.shape, dtype=kind, pin_memory=True).copy_(flat)  # a GPU writes there directly
        parts = torch.split(there, [given[place].numel() for place in places])
        copied |= {place: part.view(given[place].shape) for place, part in zip(places, parts, strict=True)}
    return [copied[place] for place in range(len(given))]


def trains_on_one(model: nn.Module, image_size: int) -> bool:
    """Return whether a network in training mode takes a batch of one image; its statistics stay as they are.

    Batch normalization cannot where its feature maps are of one pixel: it would have one value to normalize.
    """
    device = next(model.parameters()).device
    with keep_modes(model), keep_statistics(model), torch.no_grad(), torch.random.fork_rng():
        model.train()
        try:
            model(torch.zeros(1, 3, image_size, image_size, device=device))
        except ValueError:  # "Expected more than 1 value per channel when training"
            return False
    return True


NORMS: dict[str, MakeNorm] = {"batch": nn.BatchNorm2d, "group": group_norm}
MODELS: dict[str, Callable[[int, int, MakeActivation, bool, str, MakeNorm], nn.Module]] = {
    "cnn": cnn,
    "cnn2": cnn2,
    "resnet18": resnet18,
}
