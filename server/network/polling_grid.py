"""Messages over a real network: replies are processed as they arrive, and a broken one only affects its client."""

import json
import logging
import math
import queue
import threading
import time
from collections.abc import Iterable, Iterator

import numpy as np
from flwr.app import Array, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError, inflate_object_from_contents, pull_objects
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from common.errors import FedShieldError
from common.messages.packing import pack, unpack
from common.messages.records import LiveArray
from common.reach import patient

log = logging.getLogger("fedshield")

_POLL_SECONDS = 0.5
_PUSHES = 10  # attempts to hand messages to a SuperLink
_PUSH_SECONDS = 60.0  # in which all messages are handed to the SuperLink
_LEEWAY_BYTES = 2**20  # for names, shapes and figures


class PollingGrid(Grid):
    """Flower's grid, polled for replies twice a second; each reply is passed on at once.

    Flower's own asks every three seconds and keeps all replies until the last one is there: a round would take up to
    three seconds more, and the memory of all its replies. And it unpacks what the clients sent in one go: bytes that
    cannot be unpacked, that unpack to more than there is memory, or that stop in the middle of a reply would cost
    all of them. Here each reply is fetched by itself, and is as large as the message that it answers at most. Arrays
    travel packed, see ``common.messages.packing``.

    A SuperLink that is killed and started again costs nothing: what it did not say that it has, it is sent again, and
    where it has lost a reply, the client is asked again.

    Args:
        grid: Flower's.
    """

    def __init__(self, grid: HttpGrid) -> None:
        self._grid = grid
        self._asked_again: set[str] = set()
        grid._retry_invoker.should_giveup = patient(grid._retry_invoker.should_giveup)

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """Run information."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message.

        Args:
            content: of the message.
            message_type: one of ``MessageType``.
            dst_node_id: who is to get it.
            group_id: of messages that belong together.
            ttl: seconds for which it is valid; None for Flower's default.
        """
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the connected nodes, with the names under which their keys are registered."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, again where the SuperLink does not say that it has all of them.

        Raises:
            FedShieldError: it never does.
        """
        messages = list(messages)
        for _ in range(_PUSHES):
            try:
                return list(self._grid.push_messages(messages))
            except ObjectPushError as error:
                # A SuperLink that ended between keeping a part and saying so refuses the part when it comes again. It
                # asks for what it does not have when the messages themselves come again, and sends none twice.
                log.warning("the SuperLink did not confirm all messages; they are sent again (%s)", error)
                time.sleep(_POLL_SECONDS)
        raise FedShieldError(
            f"the SuperLink did not store what was sent {_PUSHES} times; its log says why (its disk may be full). "
            "Fix that, then continue with results.resume"
        )

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages now; yield each reply when it comes, until all are there or ``timeout`` seconds are over.

        A client that was away does not get messages whose time is over.
        """
        messages = list(messages)
        packed = {id(message.content): pack(message.content) for message in messages}
        for message in messages:
            message.content = packed[id(message.content)]
            if timeout is not None:
                message.metadata.ttl = timeout + _PUSH_SECONDS
        identities = self.push_messages(messages)
        sent = {identity: message for identity, message in zip(identities, messages, strict=False) if identity}
        return self._receive(sent, None if timeout is None else time.monotonic() + timeout)

    def _receive(self, sent: dict[str, Message], deadline: float | None) -> Iterator[Message]:
        waiting = len(sent)
        arrived: queue.SimpleQueue[Message] = queue.SimpleQueue()
        while waiting and (deadline is None or time.monotonic() < deadline):
            self._look(sent, arrived)
            pause = time.monotonic() + _POLL_SECONDS
            while waiting and (left := pause - time.monotonic()) > 0:
                try:
                    yield arrived.get(timeout=left)
                    waiting -= 1
                except queue.Empty:
                    break

    def _look(self, sent: dict[str, Message], arrived: queue.SimpleQueue[Message]) -> None:
        """Begin to fetch the replies that are there, and take their messages out of ``sent``."""
        if not sent:
            return
        client = self._grid._runtime_client  # Flower has no public way to ask what is there without unpacking it
        pulled = client.PullMessages(PullAppMessagesRequest(message_ids=list(sent)))
        for described, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
            identity = described.metadata.reply_to_message_id
            message = sent.pop(identity, None)
            if message is None:
                continue
            if described.error.code == ErrorCode.MESSAGE_UNAVAILABLE and identity not in self._asked_again:
                # A SuperLink that ends while it hands out a reply has forgotten both the reply and its message.
                log.warning(
                    "the SuperLink has lost the reply of node %d; the node is asked again", message.metadata.dst_node_id
                )
                self._asked_again.add(identity)
                if again := next(iter(self.push_messages([message])), ""):
                    sent[again] = message
                    continue
            # A daemon: where a reply stops half way, Flower waits for the rest of it for minutes.
            threading.Thread(target=self._fetch, args=(message, tree, arrived), daemon=True).start()

    def _fetch(self, message: Message, tree: ObjectTree, arrived: queue.SimpleQueue[Message]) -> None:
        try:
            reply = self._unpack(tree, _size(message) + _LEEWAY_BYTES)
            answer = reply.error if reply.has_error() else unpack(reply.content, LiveArray)
        except Exception as error:  # the bytes are a client's: anything
            answer = Error(0, f"its reply cannot be read ({type(error).__name__}: {error})")
        # What the client has written of sender, time and question is not taken on trust.
        arrived.put(Message(answer, reply_to=message))

    def _unpack(self, tree: ObjectTree, limit: int) -> Message:
        """Fetch the parts of a reply and put them together.

        Raises:
            ValueError: it is larger than ``limit`` bytes, as it came or unpacked.
            Exception: it is not what Flower sends.
        """
        client, run_id = self._grid._runtime_client, self.run.run_id
        pull = make_pull_object_fn_protobuf(client.PullObject, self._grid.node, run_id)
        taken = 0

        def pull_counted(identity: str) -> bytes:
            nonlocal taken
            content = pull(identity)
            taken += len(content)
            if taken > limit:
                raise ValueError(f"more than {limit} bytes")
            return content

        try:
            contents = pull_objects([part.object_id for part in iterate_object_tree(tree)], pull_counted)
        finally:  # a reply that is too large must be deleted from the database too
            client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=self._grid.node, run_id=run_id, message_object_id=tree.object_id)
            )
        if _unpacked_size(contents) > limit:
            raise ValueError(f"unpacks to more than {limit} bytes")
        reply = inflate_object_from_contents(tree.object_id, contents)
        if not isinstance(reply, Message):
            raise TypeError(f"a {type(reply).__name__}, expected a message")
        return reply


def _size(message: Message) -> int:
    """Return the bytes of a message's arrays, from what they declare: to read a model would copy it."""
    arrays = (array for record in message.content.array_records.values() for array in record.values())
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)


def _unpacked_size(contents: dict[str, bytes]) -> int:
    """Return the bytes of all arrays in a packed message, which may name one chunk many times."""
    size = 0
    for content in contents.values():
        kind, chunks, _ = get_object_head_values_from_object_content(content)
        if kind == Array.__name__:
            places = json.loads(get_object_body(content, Array))["arraychunk_ids"]
            size += sum(len(contents[chunks[place]]) for place in places)
    return size
