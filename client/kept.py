"""What a client keeps from round to round, in the state that Flower holds for it."""

from flwr.app import ConfigRecord, RecordDict

from common.messages.protocol import KEPT
from common.messages.records import to_record, to_state
from common.methods.method import Arrays

_NOTE, _METHOD = f"{KEPT}-by", "method"


def read_kept(state: RecordDict, method: str) -> Arrays:
    """Return what a client has kept from its last turn, if that was under the same method; else nothing.

    Args:
        state: of the client.
        method: ``method.name``.
    """
    return kept_arrays(state) if KEPT in state and state.config_records[_NOTE][_METHOD] == method else {}


def kept_arrays(state: RecordDict) -> Arrays:
    """Return what a client has kept from its last turn, under whichever method."""
    return to_state(state.array_records[KEPT]) if KEPT in state else {}


def write_kept(state: RecordDict, method: str, kept: Arrays) -> None:
    """Keep arrays until the client's next turn."""
    state[KEPT] = to_record(kept)
    state[_NOTE] = ConfigRecord({_METHOD: method})
