"""Part of an app in the tests: client 0 sends something else in every round. See test_faults.py."""

from collections.abc import Callable

import numpy as np
from flwr.app import Array, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

Lie = Callable[[RecordDict], None]


def _values(change: Callable[[np.ndarray], np.ndarray]) -> Lie:
    def lie(content: RecordDict) -> None:
        arrays = content.array_records["arrays"]
        name = next(iter(arrays))
        arrays[name] = Array(change(arrays[name].numpy()))

    return lie


def _examples(number: int) -> Lie:
    def lie(content: RecordDict) -> None:
        content.metric_records["metrics"]["num-examples"] = number

    return lie


def _metric(name: str, value: float) -> Lie:
    def lie(content: RecordDict) -> None:
        content.metric_records["metrics"][name] = value

    return lie


def _count(content: RecordDict) -> None:
    arrays = content.array_records["arrays"]
    name = next(name for name, array in arrays.items() if array.dtype == "int64")
    arrays[name] = Array(np.full_like(arrays[name].numpy(), 2**63 - 1))


def _note(content: RecordDict) -> None:
    content["engine"] = ConfigRecord({"first-failure": "the server is on fire"})


def _thousandfold(content: RecordDict) -> None:
    arrays = content.array_records["arrays"]
    for name, array in list(arrays.items()):
        if array.dtype == "float32":
            arrays[name] = Array(array.numpy() * np.float32(1000))


def _lack(content: RecordDict) -> None:
    arrays = content.array_records["arrays"]
    del arrays[next(iter(arrays))]


def _add(content: RecordDict) -> None:
    content.array_records["arrays"]["zzz"] = Array(np.zeros(3, np.float32))


def _ballast(content: RecordDict) -> None:
    content["ballast"] = ConfigRecord({"bytes": b"0" * 1000})


# What is sent in each round, and what the server must say of it. The gigabyte is of random values: Flower sends equal
# pieces once.
LIES: list[tuple[Lie, str]] = [
    (_values(lambda values: values * np.float32("nan")), "not finite"),
    (_values(lambda values: values[:1]), "expected float32"),
    (_lack, "array keys differ"),
    (_add, "array keys differ"),
    (_examples(10**9), "num-examples is 1000000000"),
    (_examples(-1), "num-examples is -1"),
    (_examples(0), "num-examples is 0"),
    (_thousandfold, "strategy.update-limit"),
    (_metric("loss", 9e11), "its loss is 9e+11"),
    (_metric("seconds", -1e9), "metric seconds is -1e+09"),
    (_count, "has counted from"),
    (_note, "unexpected config record 'engine'"),
    (_ballast, "unexpected config record 'ballast'"),
    (
        _values(lambda _: np.random.default_rng(0).random(2**28, dtype=np.float32)),
        "cannot be read (ValueError: more than",
    ),
]


def lie(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Change what client 0 replies."""
    reply = call_next(message, context)
    number = message.content.config_records.get("config", {}).get("server-round", 0)
    if context.node_config["partition-id"] == 0 and 1 <= number <= len(LIES) and not reply.has_error():
        LIES[number - 1][0](reply.content)
    return reply
