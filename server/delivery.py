"""Messages over a real network: replies are taken as they come."""

import time
from collections.abc import Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

_POLL_SECONDS = 0.5


class PromptGrid(Grid):
    """Another Grid, asked for replies twice a second, each of which is handed on at once.

    Flower's own asks every three seconds and keeps all replies until the last one is there: a round would take up to
    three seconds more, and the memory of all its replies.

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
        """Send messages now; yield each reply when it comes, until all are there or ``timeout`` seconds are over."""
        awaited = {identity for identity in self._grid.push_messages(messages) if identity}
        return self._receive(awaited, None if timeout is None else time.monotonic() + timeout)

    def _receive(self, awaited: set[str], deadline: float | None) -> Iterator[Message]:
        while awaited and (deadline is None or time.monotonic() < deadline):
            for reply in self._grid.pull_messages(list(awaited)):
                awaited.discard(reply.metadata.reply_to_message_id)
                yield reply
            if awaited:
                time.sleep(_POLL_SECONDS)
