"""Checks every reply before it may touch the model: a client can be broken, or can lie."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from numpy.typing import NDArray

from common.records import ENGINE_RECORD

_METRICS = {"num-examples", "loss", "seconds"}
_LARGEST_METRIC = 1e12  # beyond it one client's loss would be the round's


class RefusedError(Exception):
    """A reply that must not be aggregated; the message says why, in a few words."""


@dataclass(frozen=True)
class Guard:
    """What a valid reply looks like.

    Attributes:
        reference: the global model; a reply must have its keys, shapes and types.
        limit: L2 norm of the longest update that is accepted; an update is what a client has added to the model.
    """

    reference: ArrayRecord
    limit: float = math.inf

    def check(self, reply: Message, examples: int) -> float:
        """Return the L2 norm of a reply's update, over the model's weights and its other floating-point values.

        Args:
            reply: of one client.
            examples: number of images that this client trains on; FedAvg weighs by it, so it is not taken on trust.

        Raises:
            RefusedError: the reply must not be aggregated.
        """
        if reply.has_error():
            raise RefusedError(reply.error.reason or f"error {reply.error.code}")
        arrays, metrics = reply.content.array_records, reply.content.metric_records
        if len(arrays) != 1 or len(metrics) != 1:
            raise RefusedError(f"{len(arrays)} array records and {len(metrics)} metric records, expected one of each")
        if odd := sorted(reply.content.config_records.keys() - {ENGINE_RECORD}):
            raise RefusedError(f"an unexpected config record {odd[0]!r}")
        _check_metrics(dict(next(iter(metrics.values()))), examples)
        norm = self._check_arrays(next(iter(arrays.values())))
        if norm > self.limit:
            raise RefusedError(f"the norm of its update is {norm:.3g}, strategy.update-limit allows {self.limit:.3g}")
        return norm

    def _check_arrays(self, arrays: ArrayRecord) -> float:
        if set(arrays) != set(self.reference):
            odd = sorted(set(arrays) ^ set(self.reference))
            raise RefusedError(f"array keys differ from the model's, first at {odd[0]}")
        squares = 0.0
        for name, expected in self.reference.items():
            try:
                values = _read(arrays[name], expected)
                squares += _squared_change(values, expected.numpy())
                if name.endswith("running_var") and values.min() < 0:  # its root would be no number
                    raise RefusedError("has a negative variance")
            except RefusedError as error:
                raise RefusedError(f"array {name} {error}") from error
        return math.sqrt(squares)


def norm_of(arrays: ArrayRecord) -> float:
    """Return the L2 norm of all floating-point values."""
    values = (array.numpy() for array in arrays.values())
    return math.sqrt(sum(_squared_change(value, np.zeros_like(value)) for value in values))


def _read(found: Array, expected: Array) -> NDArray[Any]:
    """Return an array's values, once it is what it should be."""
    shape = tuple(expected.shape)
    if tuple(found.shape) != shape or found.dtype != expected.dtype:
        raise RefusedError(f"is {found.dtype} {tuple(found.shape)}, expected {expected.dtype} {shape}")
    try:
        values: object = found.numpy()
    except Exception as error:  # the bytes are a client's: an archive, a header that asks for terabytes, anything
        raise RefusedError("cannot be read") from error
    # What the bytes hold, not what the record says of them.
    if not isinstance(values, np.ndarray) or values.shape != shape or str(values.dtype) != expected.dtype:
        raise RefusedError("does not hold what it declares")
    return values


def _squared_change(values: NDArray[Any], before: NDArray[Any]) -> float:
    """Return the sum of the squared changes, 0 for integers, which are counters."""
    if not np.issubdtype(values.dtype, np.floating):
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        change = np.subtract(values, before).ravel()
        squares = float(np.dot(change, change))
    # A sum that is finite tells that its terms are, in the one pass over them that there is time for.
    if not math.isfinite(squares):
        if not np.isfinite(values).all():
            raise RefusedError("has values that are not finite")
        squares = float(np.dot(change.astype(np.float64), change.astype(np.float64)))
    return squares


def _check_metrics(metrics: dict[str, object], examples: int) -> None:
    if set(metrics) != _METRICS:
        raise RefusedError(f"metrics are {sorted(metrics)}, expected {sorted(_METRICS)}")
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not abs(value) < _LARGEST_METRIC:
            raise RefusedError(f"metric {name} is {value}, expected a finite number below {_LARGEST_METRIC:g}")
    if metrics["num-examples"] != examples:
        raise RefusedError(f"num-examples is {metrics['num-examples']}, expected {examples}")
