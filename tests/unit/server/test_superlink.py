"""Flower's database, made patient."""

from pathlib import Path

from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from sqlalchemy import event
from sqlalchemy.pool import Pool

from server.network import superlink


def test_flowers_database_waits_a_minute_for_a_lock(tmp_path: Path) -> None:
    superlink.wait_for_locks()
    try:
        store = SqlObjectStore(str(tmp_path / "superlink.db"))
        store.initialize()
        for _ in range(2):  # Flower sets five seconds when it connects
            assert store.query("PRAGMA busy_timeout") == [{"timeout": 60_000}]
    finally:
        event.remove(Pool, "checkout", superlink._be_patient)
