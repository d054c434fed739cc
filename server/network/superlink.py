"""Flower's SuperLink, made more robust: ``fedshield-superlink``, with the options of flower-superlink.

Flower 1.41 gives up after five seconds when another of its threads holds the database's lock. On a busy machine that
happens, and costs a client's reply, or the SuperExec and with it the run.

And it takes a repeated call for a new one. A call is repeated when the SuperLink was killed between doing what
it asks for and answering it: the message that it was about to hand out is gone then, and the piece of a reply that it
has stored is refused, and with it the reply.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

_LOCK_MILLISECONDS = 60_000


def wait_for_locks() -> None:
    """Let every connection to an SQLite database, from now on, wait a minute for a lock."""
    event.listen(Pool, "checkout", _be_patient)


def _be_patient(connection: Any, *_: object) -> None:
    connection.execute(f"PRAGMA busy_timeout = {_LOCK_MILLISECONDS}").close()


def answer_again() -> None:
    """Let Flower's SuperLink, in this process, answer a repeated call as it did the first time."""
    from flwr.common.constant import SUPERLINK_NODE_ID
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    hand_out, store = SqlLinkState.get_message_ins, SqlLinkState.store_object

    def hand_out_again(self: Any, node_id: int, limit: int | None, *, run_id: int | None = None) -> Sequence[Any]:
        messages = hand_out(self, node_id, limit, run_id=run_id)
        if not messages and node_id != SUPERLINK_NODE_ID and _take_back(self, node_id):
            messages = hand_out(self, node_id, limit, run_id=run_id)
        return messages

    def store_again(self: Any, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        stored = store(self, run_id, session_id, object_id, object_content)
        return stored or self.object_store.get(object_id) == object_content

    SqlLinkState.get_message_ins = hand_out_again  # type: ignore[method-assign,assignment]
    SqlLinkState.store_object = store_again  # type: ignore[method-assign]


def _take_back(state: Any, node: int) -> bool:
    """Return whether messages handed out to a node never arrived; they are then handed out again.

    A client asks for the next one when it has all of the last one and has confirmed it; then the message's content is
    deleted here.
    """
    from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
    from flwr.supercore.utils import uint64_to_int64
    from sqlalchemy import select, update

    with state.session() as session:
        handed_out = session.scalars(
            select(MessageIns.message_id).where(
                MessageIns.dst_node_id == uint64_to_int64(node),
                MessageIns.delivered_at != "",
                MessageIns.message_id.not_in(select(MessageRes.reply_to_message_id)),
            )
        ).all()
        lost = [message for message in handed_out if message in state.object_store]
        if lost:
            session.execute(update(MessageIns).where(MessageIns.message_id.in_(lost)).values(delivered_at=""))
    return bool(lost)


def main() -> None:
    """Entry point."""
    from flwr.superlink.cli import flower_superlink

    wait_for_locks()
    answer_again()
    flower_superlink()
