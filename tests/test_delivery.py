"""Replies over a network: each as it comes, and a broken one costs its client alone."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from flwr.app import Error, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from server.delivery import PromptGrid


class Scripted(Grid):
    """A SuperLink at which every node does what the test has written for it; nodes count from 1."""

    def __init__(self, acts: list[Callable[[Message], list[Message]]]) -> None:
        self.acts = acts
        self.sent: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        found = [f"message-{message.metadata.dst_node_id}" for message in messages]
        self.sent.update(zip(found, messages, strict=True))
        return found

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (identity,) = message_ids
        message = self.sent[identity]
        return self.acts[message.metadata.dst_node_id - 1](message)

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *_: object, **__: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return range(1, len(self.acts) + 1)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError


def answer(message: Message) -> list[Message]:
    node = message.metadata.dst_node_id
    return [Message(RecordDict({"metrics": MetricRecord({"node": node})}), reply_to=message)]


def malformed(_: Message) -> list[Message]:
    raise KeyError("no such object")


def another_id(message: Message) -> list[Message]:
    (reply,) = answer(message)
    reply.metadata.__dict__["_reply_to_message_id"] = "never asked"
    reply.metadata.__dict__["_src_node_id"] = 1
    return [reply]


def failed(message: Message) -> list[Message]:
    return [Message(Error(5, "out of memory"), reply_to=message)]


def questions(count: int) -> list[Message]:
    return [Message(RecordDict(), node, MessageType.TRAIN) for node in range(1, count + 1)]


def test_a_reply_that_cannot_be_read_costs_its_client_alone() -> None:
    grid = Scripted([answer, malformed, another_id, failed])
    replies = {
        reply.metadata.src_node_id: reply for reply in PromptGrid(grid).send_and_receive(questions(4), timeout=20)
    }
    assert sorted(replies) == [1, 2, 3, 4]
    assert [replies[node].content["metrics"]["node"] for node in (1, 3)] == [1, 3]
    assert replies[2].error.reason == "its reply cannot be read (KeyError: 'no such object')"
    assert replies[4].error.reason == "out of memory"


def test_a_reply_that_stops_half_way_delays_nobody_and_ends_with_the_deadline() -> None:
    gate = threading.Event()

    def half(message: Message) -> list[Message]:
        gate.wait(60)
        return answer(message)

    begin = time.monotonic()
    received: Iterator[Message] = iter(PromptGrid(Scripted([half, answer])).send_and_receive(questions(2), timeout=3))
    assert next(received).metadata.src_node_id == 2
    assert time.monotonic() - begin < 2
    with pytest.raises(StopIteration):
        next(received)
    gate.set()
    assert 3 <= time.monotonic() - begin < 30


def test_a_late_reply_is_waited_for_and_a_message_ends_with_its_deadline() -> None:
    asked: list[int] = []

    def late(message: Message) -> list[Message]:
        asked.append(1)
        return answer(message) if len(asked) == 3 else []

    grid = Scripted([late])
    (reply,) = PromptGrid(grid).send_and_receive(questions(1), timeout=20)
    assert reply.metadata.src_node_id == 1
    assert 20 <= grid.sent["message-1"].metadata.ttl <= 120
