"""Checks every reply before it may touch the model: a client can be broken, or can lie."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray

from common.messages.protocol import BESIDE, ENGINE, LOSS, NUM_EXAMPLES, SECONDS
from common.messages.records import record_of

_METRICS = (NUM_EXAMPLES, LOSS, SECONDS)
_LARGEST_METRIC = 1e12
_COUNTS_PER_IMAGE = 1000  # more than any training method counts up a counter; far below what an integer holds


class RefusedError(Exception):
    """A reply that must not be aggregated; the message says why, in a few words."""


@dataclass(frozen=True)
class Checked:
    """A reply that is well formed; ``server.aggregation.outliers`` compares it with the others of its round.

    Attributes:
        arrays: the client's model, in the order of the global one: what comes after may go by place or by name.
        metrics: ``num-examples``, ``loss`` and ``seconds``.
        update_norm: L2 norm of what the client has added to the weights.
        shifts: L2 norm of the change of each other floating-point array, such as the statistics of batch normalization.
        beside: what the client sends beside its model, an array for each weight; empty where the method asks for none.
        beside_norm: L2 norm of that.
    """

    arrays: ArrayRecord
    metrics: MetricRecord
    update_norm: float
    shifts: Mapping[str, float]
    beside: ArrayRecord
    beside_norm: float

    @property
    def loss(self) -> float:
        """The client's training loss."""
        return float(self.metrics[LOSS])  # type: ignore[arg-type]


@dataclass(frozen=True)
class ReplyChecks:
    """What a valid reply looks like.

    Attributes:
        reference: the global model; a reply must have its keys, shapes and types.
        weights: names of the arrays that are trained; the others are statistics and counters.
        engine: the replies have come through FedShield's own engine, which may have left a note in them; over a
            network such a note would be the client's own words.
        beside: the method asks for arrays beside the model.
        named: names of these, if they are not those of the weights.
    """

    reference: ArrayRecord
    weights: Collection[str]
    engine: bool = False
    beside: bool = False
    named: Collection[str] | None = None

    def check(self, reply: Message, examples: int, patience: float = math.inf) -> Checked:
        """Return what a reply holds, once it is what it should be.

        Args:
            reply: of one client.
            examples: number of images that this client trains on; FedAvg weighs by it, so it is not taken on trust.
            patience: more seconds than these it cannot have trained.

        Raises:
            RefusedError: the reply must not be aggregated.
        """
        if reply.has_error():
            raise RefusedError(reply.error.reason or f"error {reply.error.code}")
        arrays, metrics = reply.content.array_records, reply.content.metric_records
        wanted = 2 if self.beside else 1
        if len(arrays) != wanted or len(metrics) != 1 or (self.beside and BESIDE not in arrays):
            raise RefusedError(
                f"{len(arrays)} array records and {len(metrics)} metric records, expected {wanted} and 1"
            )
        if odd := sorted(reply.content.config_records.keys() - ({ENGINE} if self.engine else set())):
            raise RefusedError(f"an unexpected config record {odd[0]!r}")
        checked = _check_metrics(next(iter(metrics.values())), examples, patience)
        model = next(record for name, record in arrays.items() if name != BESIDE or not self.beside)
        return self._check_arrays(model, checked, examples, arrays[BESIDE] if self.beside else ArrayRecord())

    def _check_arrays(self, arrays: ArrayRecord, metrics: MetricRecord, examples: int, beside: ArrayRecord) -> Checked:
        if set(arrays) != set(self.reference):
            odd = sorted(set(arrays) ^ set(self.reference))
            raise RefusedError(f"array keys differ from the model's, first at {odd[0]}")
        squares, shifts = 0.0, {}
        for name, expected in self.reference.items():
            try:
                values, before = _read(arrays[name], expected), expected.numpy()
                if np.issubdtype(values.dtype, np.integer):
                    _check_counter(values, before, examples)
                elif np.issubdtype(values.dtype, np.floating):
                    change = _squared_change(values, before)
                    if name in self.weights:
                        squares += change
                    else:
                        shifts[name] = math.sqrt(change)
                if name.endswith("running_var") and values.min() < 0:  # its root would be no number
                    raise RefusedError("has a negative variance")
            except RefusedError as error:
                raise RefusedError(f"array {name} {error}") from error
        ordered = record_of({name: arrays[name] for name in self.reference})
        return Checked(ordered, metrics, math.sqrt(squares), shifts, beside, self._norm_beside(beside))

    def _norm_beside(self, beside: ArrayRecord) -> float:
        """Return the L2 norm of what a client sends beside its model, once that is what it should be."""
        if not self.beside:
            return 0.0
        names = self.weights if self.named is None else self.named
        if odd := sorted(set(beside) ^ set(names)):
            what = "those of its weights" if set(names) == set(self.weights) else "those that the method asks for"
            raise RefusedError(f"the arrays beside the model are not {what}, first at {odd[0]}")
        squares = 0.0
        for name in names:
            try:
                squares += _squared_change(_read(beside[name], self.reference[name]), np.zeros((), np.float32))
            except RefusedError as error:
                raise RefusedError(f"array {name} beside the model {error}") from error
        return math.sqrt(squares)


def _read(sent: Array, expected: Array) -> NDArray[Any]:
    """Return an array's values, once it is what it should be."""
    shape = tuple(expected.shape)
    if tuple(sent.shape) != shape or sent.dtype != expected.dtype:
        raise RefusedError(f"is {sent.dtype} {tuple(sent.shape)}, expected {expected.dtype} {shape}")
    try:
        values: object = sent.numpy()
    except Exception as error:  # the bytes are a client's: an archive, a header that asks for terabytes, anything
        raise RefusedError("cannot be read") from error
    # What the bytes hold, not what the record says of them.
    if not isinstance(values, np.ndarray) or values.shape != shape or str(values.dtype) != expected.dtype:
        raise RefusedError("does not contain what it declares")
    return values


def _squared_change(values: NDArray[Any], before: NDArray[Any]) -> float:
    """Return the sum of the squared changes."""
    with np.errstate(over="ignore", invalid="ignore"):
        change = np.subtract(values, before).ravel()
        squares = float(np.dot(change, change))
    # A sum that is finite tells that its terms are, in the one pass over them that there is time for.
    if not math.isfinite(squares):
        if not np.isfinite(values).all():
            raise RefusedError("has values that are not finite")
        squares = float(np.dot(change.astype(np.float64), change.astype(np.float64)))
    return squares


def _check_counter(values: NDArray[Any], before: NDArray[Any], examples: int) -> None:
    """Refuse a counter that training on ``examples`` images cannot have reached."""
    change = values.astype(np.float64) - before.astype(np.float64)  # as integers they could overflow
    if change.size and (change.min() < 0 or change.max() > _COUNTS_PER_IMAGE * examples):
        raise RefusedError(f"has counted from {before.ravel()[0]} to {values.ravel()[0]} over {examples} images")


def _check_metrics(metrics: MetricRecord, examples: int, patience: float) -> MetricRecord:
    if set(metrics) != set(_METRICS):
        raise RefusedError(f"metrics are {sorted(metrics)}, expected {sorted(_METRICS)}")
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not abs(value) < _LARGEST_METRIC:
            raise RefusedError(f"metric {name} is {value}, expected a finite number below {_LARGEST_METRIC:g}")
    count, loss, seconds = (float(metrics[name]) for name in _METRICS)  # type: ignore[arg-type]
    if count != examples:
        raise RefusedError(f"num-examples is {metrics[NUM_EXAMPLES]}, expected {examples}")
    if not 0 <= seconds <= patience:
        raise RefusedError(f"metric seconds is {seconds:g}, though it was asked {patience:.0f} s ago at most")
    return MetricRecord({NUM_EXAMPLES: examples, LOSS: loss, SECONDS: seconds})
