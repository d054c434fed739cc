"""Corrections of the gradients that a federated method asks for, in each step of SGD."""

from collections.abc import Mapping, Sequence
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


def towards(anchor: Arrays, strength: float) -> Pull:
    """Return what adds ``strength`` (w − anchor): the gradient of strength / 2 ‖w − anchor‖².

    Args:
        anchor: an array for each weight.
        strength: 0 or more.
    """
    placed = _Placed(anchor)

    def pull(names: Sequence[str], weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            anchors = placed.beside(names, weights)
            return [
                given if there is None else given + strength * (weight - there)
                for given, weight, there in zip(gradients, weights, anchors, strict=True)
            ]

    return pull


def added(offsets: Arrays) -> Pull:
    """Return what adds a fixed array to the gradient of each weight that has one."""
    placed = _Placed(offsets)

    def pull(names: Sequence[str], weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        pairs = zip(gradients, placed.beside(names, weights), strict=True)
        return [given if offset is None else given + offset for given, offset in pairs]

    return pull


def both(first: Pull, second: Pull) -> Pull:
    """Return the two corrections, one after the other."""
    return lambda names, weights, gradients: second(names, weights, first(names, weights, gradients))


class _Placed:
    """Arrays that are moved to the weights' device once, and keep their layout."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._placed: list[Tensor | None] | None = None

    def beside(self, names: Sequence[str], weights: Sequence[Tensor]) -> list[Tensor | None]:
        if self._placed is None:
            self._placed = [
                self._arrays[name].to(weight) if name in self._arrays else None
                for name, weight in zip(names, weights, strict=True)
            ]
        return self._placed
