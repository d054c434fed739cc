"""Checks every reply before it may touch the model: a client can be broken, or can lie."""

import math
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, Message

_METRICS = {"num-examples", "loss", "seconds"}


@dataclass(frozen=True)
class Guard:
    """What a valid reply looks like.

    Attributes:
        reference: the global model; a reply must have its keys, shapes and types.
    """

    reference: ArrayRecord

    def refuse(self, reply: Message, examples: int) -> str | None:
        """Return why ``reply`` must not be aggregated, in a few words, or None when it may.

        Args:
            reply: of one client.
            examples: number of images that this client trains on; FedAvg weighs by it, so it is not taken on trust.
        """
        if reply.has_error():
            return reply.error.reason or f"error {reply.error.code}"
        arrays, metrics = reply.content.array_records, reply.content.metric_records
        if len(arrays) != 1 or len(metrics) != 1:
            return f"{len(arrays)} array records and {len(metrics)} metric records, expected one of each"
        return self._refuse_arrays(next(iter(arrays.values()))) or _refuse_metrics(
            dict(next(iter(metrics.values()))), examples
        )

    def _refuse_arrays(self, arrays: ArrayRecord) -> str | None:
        if set(arrays) != set(self.reference):
            odd = sorted(set(arrays) ^ set(self.reference))
            return f"array keys differ from the model's, first at {odd[0]}"
        for name, expected in self.reference.items():
            if reason := _refuse_array(arrays[name], expected):
                return f"array {name} {reason}"
        return None


def _refuse_array(found: Array, expected: Array) -> str | None:
    shape = tuple(expected.shape)
    if tuple(found.shape) != shape or found.dtype != expected.dtype:
        return f"is {found.dtype} {tuple(found.shape)}, expected {expected.dtype} {shape}"
    try:
        values: object = found.numpy()
    except Exception:  # the bytes are a client's: an archive, a header that asks for terabytes, anything
        return "cannot be read"
    # What the bytes hold, not what the record says of them.
    if not isinstance(values, np.ndarray) or values.shape != shape or str(values.dtype) != expected.dtype:
        return "does not hold what it declares"
    return None if np.isfinite(values).all() else "has values that are not finite"


def _refuse_metrics(metrics: dict[str, object], examples: int) -> str | None:
    if set(metrics) != _METRICS:
        return f"metrics are {sorted(metrics)}, expected {sorted(_METRICS)}"
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            return f"metric {name} is {value}, expected a finite number"
    if metrics["num-examples"] != examples:
        return f"num-examples is {metrics['num-examples']}, expected {examples}"
    return None
