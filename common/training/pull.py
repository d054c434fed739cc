"""Corrections of the gradients that a federated method asks for, in each step of SGD."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

Arrays = Mapping[str, Tensor]


class Pull(Protocol):
    """Changes gradients before SGD sees them; weight decay and momentum come after."""

    def __call__(self, names: Sequence[str], weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the corrected gradients.

        Args:
            names: of the weights.
            weights: as they are in this step, on the device; not to be changed.
            gradients: of the loss, of the same shapes.
        """
        ...


@dataclass(frozen=True)
class LinearPull:
    """Adds ``strength`` (w − anchor) + ``offset`` to the gradient of each weight w; it is not called, but placed.

    The first term is the gradient of strength / 2 ‖w − anchor‖². A weight without an array in one of them goes without
    that term.

    Attributes:
        anchor: arrays of the weights' shapes, by name; others are left out.
        strength: 0 or more.
        offset: as ``anchor``.
    """

    anchor: Arrays = field(default_factory=dict)
    strength: float = 0.0
    offset: Arrays = field(default_factory=dict)

    @property
    def kind(self) -> tuple[object, ...]:
        """All that a step depends on, except the values of the arrays."""
        return self.strength, tuple(self.anchor), tuple(self.offset)


class PlacedPull:
    """A ``LinearPull`` whose arrays have places of their own beside the weights, where a recorded step reads them.

    Args:
        names: of the weights.
        weights: on the device.
        pull: the first to be placed; ``take`` places others of its kind.
    """

    def __init__(self, names: Sequence[str], weights: Sequence[Tensor], pull: LinearPull) -> None:
        self.kind, self._strength = pull.kind, pull.strength
        beside = dict(zip(names, weights, strict=True))
        self._anchor, self._offset = (
            {name: torch.empty_like(beside[name].detach()) for name in arrays if name in beside}
            for arrays in (pull.anchor, pull.offset)
        )

    def take(self, pull: LinearPull) -> "PlacedPull":
        """Copy the values of a pull of the same kind; return self."""
        for places, arrays in ((self._anchor, pull.anchor), (self._offset, pull.offset)):
            for name, place in places.items():
                place.copy_(arrays[name])
        return self

    def __call__(self, names: Sequence[str], weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the corrected gradients, as a ``Pull`` does."""
        with torch.no_grad():
            return [self._corrected(*each) for each in zip(names, weights, gradients, strict=True)]

    def _corrected(self, name: str, weight: Tensor, gradient: Tensor) -> Tensor:
        if name in self._anchor:
            gradient = gradient + self._strength * (weight - self._anchor[name])
        return gradient + self._offset[name] if name in self._offset else gradient
