"""Part of an app in the tests: client 0 sends something else in every round. See test_faults.py."""

from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

Lie = Callable[[ArrayRecord, MetricRecord], None]


def _values(change: Callable[[np.ndarray], np.ndarray]) -> Lie:
    def lie(arrays: ArrayRecord, _: MetricRecord) -> None:
        name = next(iter(arrays))
        arrays[name] = Array(change(arrays[name].numpy()))

    return lie


def _examples(number: int) -> Lie:
    def lie(_: ArrayRecord, metrics: MetricRecord) -> None:
        metrics["num-examples"] = number

    return lie


def _thousandfold(arrays: ArrayRecord, _: MetricRecord) -> None:
    for name, array in list(arrays.items()):
        if array.dtype == "float32":
            arrays[name] = Array(array.numpy() * np.float32(1000))


def _lack(arrays: ArrayRecord, _: MetricRecord) -> None:
    del arrays[next(iter(arrays))]


def _add(arrays: ArrayRecord, _: MetricRecord) -> None:
    arrays["zzz"] = Array(np.zeros(3, np.float32))


# What is sent in each round, and what the server must say of it.
LIES: list[tuple[Lie, str]] = [
    (_values(lambda values: values * np.float32("nan")), "not finite"),
    (_values(lambda values: values[:1]), "expected float32"),
    (_lack, "array keys differ"),
    (_add, "array keys differ"),
    (_examples(10**9), "num-examples is 1000000000"),
    (_examples(-1), "num-examples is -1"),
    (_examples(0), "num-examples is 0"),
    (_thousandfold, "strategy.update-limit"),
    (_values(lambda _: np.zeros(2**28, np.float32)), "(268435456,)"),
]


def lie(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Change what client 0 replies."""
    reply = call_next(message, context)
    number = message.content.config_records.get("config", {}).get("server-round", 0)
    if context.node_config["partition-id"] == 0 and 1 <= number <= len(LIES) and not reply.has_error():
        LIES[number - 1][0](reply.content["arrays"], reply.content["metrics"])
    return reply
