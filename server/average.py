"""The weighted mean of FedAvg, taken reply by reply, so that no round has to hold all its replies."""

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from common.records import State, to_record, to_state


class RunningMean:
    """Σ (nᵢ / n) wᵢ (McMahan et al. 2017, arXiv 1602.05629, algorithm 1), in the order in which it is given the wᵢ.

    When the weights add up to the expected total, the result equals that of Flower's ``aggregate_arrayrecords`` bit for
    bit, but that integer buffers (batch normalisation's counters) stay integers.

    Args:
        expected: n, the images of all clients that were asked.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._seen = 0
        self._sums: State = {}
        self._types: dict[str, torch.dtype] = {}

    def add(self, arrays: ArrayRecord, examples: int) -> None:
        """Add one client's weights, those of ``examples`` images."""
        weight = examples / self._expected
        self._seen += examples
        for name, value in to_state(arrays).items():
            term = (value if value.is_floating_point() else value.double()) * weight
            if name in self._sums:
                self._sums[name] += term
            else:
                self._sums[name], self._types[name] = term, value.dtype

    def result(self) -> ArrayRecord:
        """Return the mean over the clients seen; at least one must have been added."""
        if self._seen != self._expected:  # some were refused: the others' weights have to add up to one again
            for value in self._sums.values():
                value.mul_(self._expected / self._seen)
        return to_record({name: self._finish(name, value) for name, value in self._sums.items()})

    def _finish(self, name: str, value: Tensor) -> Tensor:
        kind = self._types[name]
        return value if kind.is_floating_point else value.round().to(kind)
