"""Looks into the network that is trained, and runs it with other weights, for methods that compare models."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_hook

from common.errors import DeadEndError
from common.methods.method import Arrays
from common.models.modes import keep_modes


class OtherWeights:
    """The same network with other weights and statistics, in eval mode, without gradients.

    They have places of their own, which ``load`` overwrites: a batch that a GPU has recorded reads them there.

    Args:
        model: that is trained; it keeps its own weights and modes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, kept = model, model.state_dict()
        arrays = chain(model.named_parameters(), model.named_buffers())
        self._places = {name: torch.empty_like(array.detach()) for name, array in arrays if name in kept}

    def load(self, arrays: Arrays) -> None:
        """Take over all weights and statistics of a model."""
        for name, place in self._places.items():
            place.copy_(arrays[name])

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the logits [B,N] of pixels [B,3,H,W]."""
        with torch.no_grad(), keep_modes(self._model):
            self._model.eval()
            logits: Tensor = functional_call(self._model, self._places, (pixels,))
        return logits


def last_linear(model: nn.Module, method: str) -> nn.Linear:
    """Return the last layer that is an ``nn.Linear``; its input are the features of an image.

    Args:
        model: a network.
        method: ``method.name``.

    Raises:
        FedShieldError: there is none.
    """
    found = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if not found:
        raise DeadEndError(
            f"method.name = {method}: it compares what goes into the network's last nn.Linear, and this network has "
            "none; take another model.name, or another method"
        )
    return found[-1]


class Seen:
    """What went into a network, into its last layer, and what came out: a tensor each for every forward pass."""

    def __init__(self) -> None:
        self.pixels: list[Tensor] = []
        self.features: list[Tensor] = []
        self.logits: list[Tensor] = []


@contextmanager
def watching(model: nn.Module, head: nn.Module | None, training: bool) -> Iterator[Seen]:
    """See every forward pass while the block lasts.

    A hook on the network itself would keep ``attack.fast`` from folding it, so the hook is on all modules.

    Args:
        model: to watch.
        head: its last layer; None if its features are not needed.
        training: the mode of the passes that count; attacks run in eval mode.
    """
    seen = Seen()

    def see(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if model.training is training and given:
            if module is model:
                seen.pixels.append(given[0])
                seen.logits.append(output.float())
            if module is head:
                seen.features.append(given[0].flatten(1).float())

    handle = register_module_forward_hook(see)
    try:
        yield seen
    finally:
        handle.remove()
