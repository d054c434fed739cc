"""A message of a run that ends while it is fetched.

Flower 1.41's SuperNode then drops the message and keeps its task: the ClientApp is started for a message that never
arrives completely, and its reply is taken for the next one's. From then on the node is one message behind, in every
run, until it is started again.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


def forget_messages_of_ended_runs() -> None:
    """Let Flower's SuperNode, in this process, treat such a message as one that could not be fetched: it forgets it."""
    from flwr.supernode import start_client_internal

    pull = start_client_internal._pull_and_store_message

    def patient(*, pull_object: Any, confirm_message_received: Any, **others: Any) -> int | None:
        return pull(
            pull_object=_plain(pull_object), confirm_message_received=_plain(confirm_message_received), **others
        )

    start_client_internal._pull_and_store_message = patient  # type: ignore[assignment]


def _plain(call: Callable[_P, _T]) -> Callable[_P, _T]:
    from flwr.supercore.run import RunNotRunningException

    def called(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return call(*args, **kwargs)
        except RunNotRunningException as error:  # no Exception: Flower passes it by where it cleans up
            raise RuntimeError("its run has ended") from error

    return called
