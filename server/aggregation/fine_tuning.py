"""After the last round, every client may train the global model further, for itself alone."""

import logging
from collections.abc import Iterable

from flwr.app import Message, MessageType, RecordDict

from server.network.roster import Roster

log = logging.getLogger("fedshield")


class FineTuning:
    """Asks all clients, those too that were in no round, and learns which of them have done it.

    Args:
        roster: where the clients are.
        clients: how many there are.
    """

    def __init__(self, roster: Roster, clients: int) -> None:
        self._roster, self._clients = roster, clients
        self._sent: dict[int, Message] = {}

    def messages(self, content: RecordDict) -> list[Message]:
        """Return a message with this content for each client that is connected."""
        self._roster.meet()
        nodes = ((client, self._roster.node(client)) for client in range(self._clients))
        self._sent = {
            client: Message(content, node, MessageType.EVALUATE) for client, node in nodes if node is not None
        }
        return list(self._sent.values())

    def done(self, replies: Iterable[Message]) -> set[int]:
        """Return the clients that have a model of their own now; the others are named in the log."""
        answers = {reply.metadata.reply_to_message_id: reply for reply in replies}
        own = set()
        for client in range(self._clients):
            message = self._sent.get(client)
            answer = answers.get(message.metadata.message_id) if message is not None else None
            if answer is not None and not answer.has_error():
                own.add(client)
                continue
            reason = self._roster.failure(client) if message is None else "no reply in time"
            if answer is not None:
                reason = answer.error.reason or f"error {answer.error.code}"
            log.warning("client %d has not fine-tuned the model: %s", client, reason)
        return own
