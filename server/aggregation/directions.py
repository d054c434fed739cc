"""In which directions the clients of a round have moved the weights: how far they agree, and with the held-out images.

An update is compared by a sketch of 4,096 numbers, so that no reply has to be kept for it: each weight has a random
sign and is added to one of them (Charikar et al. 2002, ICALP: count sketch). The cosine of two sketches is that of the
updates, up to about 1/64; of networks with no more weights than that it is exact.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from common.messages.records import State
from common.seeding import rng_for

_PLACES = 4096

Floats = NDArray[np.float32]


class Directions:
    """Takes the replies of a round one by one; none of them is kept.

    Args:
        before: the global model that they were trained from.
        weights: names of its arrays that are trained.
        descent: a direction to compare with, an array for each of these names; None for no such comparison.
    """

    def __init__(self, before: ArrayRecord, weights: Collection[str], descent: State | None = None) -> None:
        self._before = {name: array.numpy() for name, array in before.items() if name in weights}
        total = sum(array.size for array in self._before.values())
        signs = rng_for(0, "sketch").integers(0, 2, total, np.int8) * 2 - 1
        self._signs = signs if total > _PLACES else np.ones(total, np.int8)
        self._sketches: dict[int, Floats] = {}
        self._descent = None
        if descent is not None:
            self._descent = self._sketch({name: array.numpy() for name, array in descent.items()})

    def add(self, client: int, arrays: ArrayRecord) -> None:
        """Take the model of a client."""
        with np.errstate(over="ignore", invalid="ignore"):
            change = {name: np.subtract(arrays[name].numpy(), before) for name, before in self._before.items()}
        self._sketches[client] = self._sketch(change)

    def _sketch(self, arrays: Mapping[str, NDArray[Any]]) -> Floats:
        """Return the sums of the weights that share a place, each with its sign."""
        found, start = np.zeros(_PLACES), 0
        for name in self._before:
            values = arrays[name].ravel() * self._signs[start : start + arrays[name].size]
            first = start % _PLACES
            padded = np.zeros(-(-(first + values.size) // _PLACES) * _PLACES)
            padded[first : first + values.size] = values
            found += padded.reshape(-1, _PLACES).sum(0)
            start += values.size
        with np.errstate(over="ignore"):
            return found.astype(np.float32)

    def report(self) -> dict[str, Any]:
        """Return what goes into the round's line of ``metrics.jsonl``; clients that have not moved are left out.

        ``cosines``: of each client's update with the mean direction of the others, in which each has the same length,
        so that a long one cannot decide it. ``pool-cosines``: with ``descent``, FLTrust's score (Cao et al. 2021, arXiv
        2012.13995, equation 2) without its cut at zero. ``dispersion``: mean of the squared lengths over the squared
        length of the mean: 1 where all updates are the same, n where n of them are orthogonal (Karimireddy et al. 2020,
        arXiv 1910.06378, (A1)).
        """
        lengths = {client: math.sqrt(_dot(sketch, sketch)) for client, sketch in self._sketches.items()}
        moved = {client: length for client, length in lengths.items() if 0 < length < np.inf}
        if not moved:
            return {}
        units, norms = np.stack([self._sketches[client] for client in moved]), np.array([*moved.values()], np.float32)
        middle = units.mean(0, dtype=np.float64)
        mean = _dot(middle, middle)
        units /= norms[:, None]
        found: dict[str, Any] = {}
        if len(moved) > 1:
            total = units.sum(0)
            found["cosines"] = _by_client(moved, [_cosine(unit, total - unit) for unit in units])
            found["dispersion"] = round(_dot(norms, norms) / len(norms) / mean, 6) if mean else None
        if self._descent is not None:
            found["pool-cosines"] = _by_client(moved, [_cosine(unit, self._descent) for unit in units])
        return found


def _by_client(clients: Collection[int], values: list[float | None]) -> dict[str, float]:
    return {str(client): value for client, value in zip(clients, values, strict=True) if value is not None}


def _dot(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the inner product; NumPy's own depends, in its last bits, on where in memory the numbers are."""
    return float(np.multiply(first, second, dtype=np.float64).sum())


def _cosine(first: Floats, second: Floats) -> float | None:
    lengths = math.sqrt(_dot(first, first) * _dot(second, second))
    return round(_dot(first, second) / lengths, 6) if lengths else None
