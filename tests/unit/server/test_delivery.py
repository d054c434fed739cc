"""Replies over a network, as the bytes that Flower sends: each as it comes, and a broken one costs its client alone."""
# ruff: noqa: N802  # the wire's methods are Flower's

import json
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.inflatable.inflatable_object import (
    add_header_to_object_body,
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from server.network.polling_grid import PollingGrid

pytestmark = pytest.mark.usefixtures("speaking")

Act = Callable[[Message], Message | None]


class Wire:
    """A SuperLink without a network: what comes back to a message is what the test has written for its node."""

    def __init__(self, acts: list[Act]) -> None:
        self.acts = acts  # of the nodes from 1 on
        self.objects: dict[str, bytes] = {}
        self.withheld = threading.Event()
        self.ttl: list[float] = []
        self.messages: list[Message] = []
        self.sent: dict[str, Message] = {}
        self.confirmed: list[str] = []  # what need not be kept any more

    def PushMessages(self, request: PushAppMessagesRequest) -> PushAppMessagesResponse:
        self.ttl = [message.metadata.ttl for message in request.messages_list]
        identities = [tree.object_id for tree in request.message_object_trees]
        self.sent = dict(zip(identities, self.messages, strict=True))
        return PushAppMessagesResponse(message_ids=identities)

    def PushObject(self, _: PushObjectRequest) -> PushObjectResponse:
        return PushObjectResponse(stored=True)

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        found = PullAppMessagesResponse()
        for identity in request.message_ids:
            message = self.sent[identity]
            reply = self.acts[message.metadata.dst_node_id - 1](message)
            if reply is not None:
                described = message_to_proto(Message(Error(0, ""), reply_to=message))
                described.metadata.reply_to_message_id = identity
                found.messages_list.append(described)
                found.message_object_trees.append(get_object_tree(reply))
                self.objects |= {key: part.deflate() for key, part in get_all_nested_objects(reply).items()}
        return found

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        content = self.objects[request.object_id]
        if b"withheld" in content:
            self.withheld.wait(600)
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: ConfirmMessageReceivedRequest) -> ConfirmMessageReceivedResponse:
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()


def ask(wire: Wire, timeout: float = 600.0) -> Iterator[Message]:
    """Send each node a model of 4,000 bytes; yield what comes back."""
    flowers = HttpGrid(token="any")
    flowers._client = wire  # type: ignore[assignment]
    flowers.set_run(Run.create_empty(1))
    model = ArrayRecord({"weight": Array(np.ones(1000, np.float32))})
    content = RecordDict({"arrays": model})
    wire.messages = [Message(content, node, MessageType.TRAIN) for node in range(1, len(wire.acts) + 1)]
    yield from PollingGrid(flowers).send_and_receive(wire.messages, timeout=timeout)


def reply_with(message: Message, **arrays: Array) -> Message:
    content = RecordDict({"metrics": MetricRecord({"node": message.metadata.dst_node_id})})
    content["arrays"] = record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = array  # as it is: the constructor would copy it
    return Message(content, reply_to=message)


def well(message: Message) -> Message:
    return reply_with(message, weight=Array(np.full(1000, 2, np.float32)))


def failed(message: Message) -> Message:
    return Message(Error(5, "out of memory"), reply_to=message)


def from_another(message: Message) -> Message:
    reply = well(message)
    reply.metadata.__dict__.update(_reply_to_message_id="never asked", _src_node_id=1)
    return reply


class Garbled(Array):
    """Declares to be an array, with whatever the test wants to be sent."""

    body: bytes

    def deflate(self) -> bytes:
        return add_header_to_object_body(object_body=self.body, obj=self)


Garbled.__name__ = Garbled.__qualname__ = "Array"


def garbled(message: Message) -> Message:
    array = Garbled(np.ones(3))
    array.body = b"{"
    return reply_with(message, weight=array)


def bomb(message: Message) -> Message:
    array = Garbled(np.ones(100_000))  # one chunk of 800 kB, named a thousand times
    described = {"dtype": "float64", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": [0] * 1000}
    array.body = json.dumps(described).encode()
    return reply_with(message, weight=array)


def huge(message: Message) -> Message:
    return reply_with(message, weight=Array(np.random.default_rng(0).random(10**6)))


def test_a_broken_reply_costs_its_client_alone() -> None:
    acts = [well, garbled, from_another, failed, bomb, huge]
    wire = Wire(acts)
    replies = {reply.metadata.src_node_id: reply for reply in ask(wire)}
    assert sorted(replies) == [1, 2, 3, 4, 5, 6]
    assert len(set(wire.confirmed)) == 6  # or what a liar sends would fill the SuperLink's disk
    for node in (1, 3):
        assert replies[node].content.metric_records["metrics"]["node"] == node
        values = replies[node].content.array_records["arrays"]["weight"].numpy()
        assert values.tobytes() == np.full(1000, 2, np.float32).tobytes()
    assert replies[4].error.reason == "out of memory"
    said = {node: replies[node].error.reason for node in (2, 5, 6)}
    assert said[2].startswith("its reply cannot be read (JSONDecodeError: ")
    limit = 1052656  # the packed model of 4,080 bytes and 1 MiB
    assert said[5] == f"its reply cannot be read (ValueError: unpacks to more than {limit} bytes)"
    assert said[6] == f"its reply cannot be read (ValueError: more than {limit} bytes)"


def test_a_reply_that_stops_half_way_delays_nobody_and_ends_with_the_deadline() -> None:
    def half(message: Message) -> Message:
        return Message(Error(0, "withheld"), reply_to=message)

    wire = Wire([half, well])
    replies = ask(wire)
    assert next(replies).metadata.src_node_id == 2
    wire.withheld.set()
    assert next(replies).metadata.src_node_id == 1
    wire = Wire([half])
    begin = time.monotonic()
    assert list(ask(wire, timeout=1)) == []
    assert time.monotonic() - begin >= 1
    wire.withheld.set()


def test_a_reply_is_waited_for_and_a_message_ends_with_its_deadline() -> None:
    taken = threading.Event()
    wire = Wire([well, lambda message: well(message) if taken.is_set() else None])
    replies = ask(wire)
    assert next(replies).metadata.src_node_id == 1
    taken.set()
    assert [reply.metadata.src_node_id for reply in replies] == [2]
    assert all(600 <= ttl <= 700 for ttl in wire.ttl)
