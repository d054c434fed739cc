"""What a client keeps from round to round, in the state that Flower holds for it.

A client does not know whether the server takes its reply: it may be refused, or come too late. So it keeps two
versions, that of its last turn and that of the last turn that counted, and the next message says which one counts.
"""

from flwr.app import ConfigRecord, RecordDict

from common.messages.protocol import KEPT
from common.messages.records import to_record, to_state
from common.methods.method import Arrays

_NOTE, _METHOD = f"{KEPT}-by", "method"
_PLACES = (f"{KEPT}-now", f"{KEPT}-before")


def read_kept(state: RecordDict, method: str, counted: int) -> Arrays | None:
    """Return copies of what a client kept in a turn; None if it has lost that, or kept it under another method.

    Args:
        state: of the client.
        method: ``method.name``.
        counted: the round of its last turn that the server took; 0 if there was none, when nothing is kept yet.
    """
    if counted == 0:
        return {}
    place = _find(state, counted)
    if place is None or state.config_records[_NOTE][_METHOD] != method:
        return None
    return {name: array.clone() for name, array in to_state(state.array_records[place]).items()}


def write_kept(state: RecordDict, method: str, kept: Arrays, server_round: int, counted: int = 0) -> None:
    """Keep arrays until the client's next turn.

    Args:
        state: of the client.
        method: ``method.name``.
        kept: in this turn.
        server_round: of this turn.
        counted: as in ``read_kept``: that version is kept too.
    """
    now, before = _PLACES
    note = ConfigRecord({_METHOD: method, now: server_round})
    if place := _find(state, counted):
        state[before], note[before] = state.array_records[place], counted
    state[now], state[_NOTE] = to_record(kept), note


def _find(state: RecordDict, server_round: int) -> str | None:
    """Return the record with what was kept in a round."""
    note = state.config_records.get(_NOTE, ConfigRecord())
    return next((place for place in _PLACES if note.get(place) == server_round and server_round), None)
