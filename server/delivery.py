"""Messages over a real network: replies are taken as they come, and one that is broken costs only its client."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

_POLL_SECONDS = 0.5
_PUSH_SECONDS = 60.0  # in which all messages are handed to the SuperLink

_Arrivals = queue.SimpleQueue[Message]


class PromptGrid(Grid):
    """Another Grid, asked for each reply twice a second; each is handed on at once.

    Flower's own asks every three seconds and keeps all replies until the last one is there: a round would take up to
    three seconds more, and the memory of all its replies. What a client sends it unpacks together with the others'
    replies, so that bytes that cannot be unpacked, or that stay away in the middle of a reply, would cost all of them.

    Args:
        grid: Flower's.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

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
        """Create a message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages now; yield each reply when it comes, until all are there or ``timeout`` seconds are over.

        A client that was away does not get messages whose time is over.
        """
        messages = list(messages)
        if timeout is not None:
            for message in messages:
                message.metadata.ttl = timeout + _PUSH_SECONDS
        sent = [
            (identity, message)
            for identity, message in zip(self._grid.push_messages(messages), messages, strict=False)
            if identity
        ]
        return self._receive(sent, None if timeout is None else time.monotonic() + timeout)

    def _receive(self, sent: list[tuple[str, Message]], deadline: float | None) -> Iterator[Message]:
        arrivals: _Arrivals = queue.SimpleQueue()
        over = threading.Event()
        for identity, message in sent:
            # A daemon: where a reply stops half way, Flower waits for the rest of it for minutes.
            threading.Thread(target=self._await, args=(identity, message, arrivals, over), daemon=True).start()
        try:
            for _ in sent:
                yield arrivals.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return
        finally:
            over.set()

    def _await(self, identity: str, message: Message, arrivals: _Arrivals, over: threading.Event) -> None:
        """Ask for the reply to one message until it is there."""
        while not over.is_set():
            try:
                replies = list(self._grid.pull_messages([identity]))
            except Exception as error:  # the bytes are a client's: anything
                reason = f"its reply cannot be read ({type(error).__name__}: {error})"
                arrivals.put(Message(Error(0, reason), reply_to=message))
                return
            if replies:
                # What the client has written of sender, time and question is not taken on trust.
                reply = replies[0]
                arrivals.put(Message(reply.error if reply.has_error() else reply.content, reply_to=message))
                return
            over.wait(_POLL_SECONDS)
