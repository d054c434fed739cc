"""The weighted mean of FedAvg, reply by reply: each can be freed once it has been added."""

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from common.messages.records import State, to_record, to_state


class RunningMean:
    """Σ (nᵢ / n) wᵢ (McMahan et al. 2017, arXiv 1602.05629, algorithm 1), in the order in which it is given the wᵢ.

    When the weights add up to the expected total, the result equals that of Flower's ``aggregate_arrayrecords`` bit for
    bit, but that integer buffers (batch normalization's counters) stay integers.

    Args:
        expected: n, the images of all clients that were asked, or the sum of other weights.
    """

    def __init__(self, expected: float) -> None:
        self._expected = expected
        self._seen = 0.0
        self._sums: State = {}
        self._types: dict[str, torch.dtype] = {}
        self._scratch: dict[torch.dtype, Tensor] = {}

    def add(self, arrays: ArrayRecord, examples: float) -> None:
        """Add one client's weights, those of ``examples`` images."""
        weight = examples / self._expected
        self._seen += examples
        for name, given in to_state(arrays).items():
            self._types[name] = given.dtype
            value = given if given.is_floating_point() else given.double()
            if name in self._sums:
                self._sums[name] += torch.mul(value, weight, out=self._space(value))
            else:
                self._sums[name] = value * weight

    def _space(self, value: Tensor) -> Tensor:
        """Return memory for one product: new memory for each would cost more than the arithmetic."""
        kept = self._scratch.get(value.dtype)
        if kept is None or kept.numel() < value.numel():
            kept = self._scratch[value.dtype] = torch.empty(value.numel(), dtype=value.dtype)
        return kept[: value.numel()].view(value.shape)

    def result(self) -> ArrayRecord:
        """Return the mean over the clients seen; at least one must have been added."""
        if self._seen != self._expected:  # some were refused: the others' weights have to add up to one again
            for value in self._sums.values():
                value.mul_(self._expected / self._seen)
        return to_record({name: self._finish(name, value) for name, value in self._sums.items()})

    def _finish(self, name: str, value: Tensor) -> Tensor:
        kind = self._types[name]
        return value if kind.is_floating_point else value.round().to(kind)
