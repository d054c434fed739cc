"""Flower's SuperLink, more patient with its database: ``fedshield-superlink``, with the options of flower-superlink.

Flower 1.41 gives up after five seconds when another of its threads holds the database's lock. On a busy machine that
happens, and costs a client's reply, or the SuperExec and with it the run.
"""

from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

_LOCK_MILLISECONDS = 60_000


def wait_for_locks() -> None:
    """Let every connection to an SQLite database, from now on, wait a minute for a lock."""
    event.listen(Pool, "checkout", _be_patient)


def _be_patient(connection: Any, *_: object) -> None:
    connection.execute(f"PRAGMA busy_timeout = {_LOCK_MILLISECONDS}").close()


def main() -> None:
    """Entry point."""
    from flwr.superlink.cli import flower_superlink

    wait_for_locks()
    flower_superlink()
