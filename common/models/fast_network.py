"""A network for training attacks: folded, but only where it is shown that folding changes nothing but rounding.

``folding`` recognizes parts. A user's ``forward`` may use them in another way: leave one out, read a weight, keep batch
normalization in training mode. So a copy of the network is tried both ways first.
"""

import copy
import logging
from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.models.folding import Folded
from common.models.modes import ways_of

log = logging.getLogger("fedshield")

_EXAMPLES = 4
_LOGITS, _GRADIENTS = 1e-3, 1e-2  # largest difference, relative to the length; 1e-5 is rounding
_known: WeakKeyDictionary[nn.Module, tuple[list[int], str]] = WeakKeyDictionary()


class FastNetwork(nn.Module):
    """Computes what ``model`` computes in eval mode; put the model into eval mode while this one runs.

    Args:
        model: a network that has something to fold.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._folded: Folded | None = None
        self._decided = False
        self.eval()

    def refresh(self, images: Tensor) -> None:
        """Follow the model's weights as they are now; the first time, decide whether to fold.

        Args:
            images: [B,3,H,W]; only their size counts.
        """
        if not self._decided:
            told = any(_known[part][1] for part in self._model.modules() if part in _known)
            reason = why_not_folded(self._model, *images.shape[2:])
            if reason and not told:
                _warn_once(f"attack.fast = true has no effect on {type(self._model).__name__}: it {reason}")
            self._folded = None if reason else Folded(self._model)
            self._decided = True
        if self._folded is not None:
            self._folded.refresh()

    def train(self, mode: bool = True) -> "FastNetwork":
        """Stay in eval mode, and leave the modes of the model's own parts to the model."""
        self.training = False
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits [B,N] of pixels [B,3,H,W]."""
        logits: Tensor = (self._folded or self._model)(pixels)
        return logits


def fast_network(model: nn.Module) -> FastNetwork | None:
    """Return a network for attacks on ``model``, if this has anything to fold."""
    return FastNetwork(model) if Folded.folds(model) else None


def why_not_folded(model: nn.Module, height: int, width: int) -> str:
    """Return why a network must not be folded, as the end of a sentence; nothing where it may, or has nothing to fold.

    The answer depends on how the network is built alone, not on its weights: everybody who trains it gets the same. It
    is found once for each network. Neither the network nor the global random numbers change.

    Args:
        model: from pixels [B,3,H,W] to logits [B,N].
        height: H.
        width: W.
    """
    if not Folded.folds(model):
        return ""
    ways = [id(way) for way in ways_of(model)]
    if model not in _known or _known[model][0] != ways:
        _known[model] = ways, _try_both(model, height, width)
    return _known[model][1]


@cache
def _warn_once(line: str) -> None:
    log.warning("%s", line)


def _try_both(model: nn.Module, height: int, width: int) -> str:
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(_EXAMPLES, 3, height, width, generator=generator)
    images = (images * torch.rand(_EXAMPLES, 3, 1, 1, generator=generator)).to(device)  # each of a color of its own
    gpus = range(torch.cuda.device_count()) if device.type == "cuda" else ()  # torch.manual_seed seeds them all
    with torch.random.fork_rng(gpus), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        try:
            twin = _scattered_copy(model, generator)
            plain = _answer(twin, images)
            folded = Folded(twin)
            folded.refresh()
            other = _answer(folded, images)
        except (MemoryError, torch.OutOfMemoryError):  # says nothing of the network
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {error}".split("\n")[0]
            return f"fails as a copy with folded batch normalization ({told})"
    logits, gradients = (_apart(here, there) for here, there in zip(plain, other, strict=True))
    # Rounding that moves one value over the kink of ReLU changes the gradient of that image by several percent.
    for what, apart, most in (
        ("logits", logits.max(), _LOGITS),
        ("gradients", gradients.median(), _GRADIENTS),
    ):
        if not apart <= most:  # also where it is not a number
            return f"computes other {what} as a copy with folded batch normalization ({apart:.1%} apart)"
    return ""


def _apart(here: Tensor, there: Tensor) -> Tensor:
    """Return how far two answers [B,...] are apart, for each image, relative to the length of the first: [B]."""
    difference: Tensor = (here - there).flatten(1).norm(dim=1) / here.flatten(1).norm(dim=1)
    return difference


def _scattered_copy(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return a copy in eval mode with random weights and statistics: many start as 0 or 1, which would hide a lot."""
    # What the last forward pass has left in a part may have a graph, and PyTorch would refuse to copy it.
    left = [value for part in model.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    twin = copy.deepcopy(model, {id(value): value.detach().clone() for value in left}).eval().requires_grad_(False)
    for name, weight in twin.named_parameters():
        if weight.dim() > 1:  # half the variance of He et al. 2015: what grows with depth would let rounding grow
            bound = (3 / max(1, weight[0].numel())) ** 0.5
            _scatter(weight, 0, bound, generator)
        else:
            _scatter(weight, 0 if name.endswith("bias") else 1, 0.5, generator)
    for norm in twin.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            _scatter(norm.running_mean, 0, 0.5, generator)
            _scatter(norm.running_var, 1, 0.5, generator)
    return twin


def _scatter(values: Tensor, center: float, reach: float, generator: torch.Generator) -> None:
    with torch.no_grad():  # drawn on the CPU: a GPU's own numbers are others
        values.copy_(center + reach * (2 * torch.rand(values.shape, generator=generator) - 1))


def _answer(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits [B,N], and the gradient [B,3,H,W] of a random sum of them."""
    torch.manual_seed(1)  # a randomized network draws the same each time
    images = images.clone().requires_grad_()
    logits: Tensor = network(images)
    (gradient,) = torch.autograd.grad((logits * torch.randn_like(logits)).sum(), images)
    return logits.detach(), gradient
