"""Replies in the order of their clients, whoever is done first."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from flwr.app import Error, Message, MessageType, RecordDict


def in_order(
    asked: Sequence[int], sent: Mapping[int, Message], replies: Iterable[Message], failure: Callable[[int], str]
) -> Iterator[tuple[int, Message]]:
    """Yield the round's clients in increasing order, each with its reply, as soon as it is next.

    A client that has sent none gets an error in place of its reply.

    Args:
        asked: the clients of the round, increasing.
        sent: the messages to those of them that are connected.
        replies: in the order in which they come.
        failure: says why a client is not connected.
    """
    early: dict[int, Message] = {}
    client_of: dict[str, int] = {}
    waiting = deque(asked)
    for reply in replies:
        # Not by its source node: an error that Flower itself reports about a client comes from another node.
        question = reply.metadata.reply_to_message_id
        if question not in client_of:  # Flower numbers a message when it is sent, which may be during this loop
            client_of = {message.metadata.message_id: client for client, message in sent.items()}
        sender = client_of.get(question)
        if sender is not None:
            early[sender] = reply
        while waiting and waiting[0] in early:
            client = waiting.popleft()
            yield client, early.pop(client)
    for client in waiting:
        yield client, early.get(client) or _silent(sent.get(client), client, failure)


def _silent(message: Message | None, client: int, failure: Callable[[int], str]) -> Message:
    reason = failure(client) if message is None else "no reply in time"
    return Message(Error(0, reason), reply_to=message or Message(RecordDict(), 0, MessageType.TRAIN))
