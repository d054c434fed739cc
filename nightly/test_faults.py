"""Faults done to real processes over TLS; what they cost is in docs/reliability.md.

Some minutes each, so not among the tests of every change: ``uv run pytest nightly -n 0``.
"""

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightly.relay import Relay
from nightly.rogue import LIES
from server.stored import read_metrics
from tests.bench import ROOT, Bench, running
from tests.test_federation import figures, run, same, weights

CLIENTS = 4
TIMEOUT = 25


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    settings = {"federation.client-timeout-seconds": TIMEOUT, "federation.min-fraction": 0.5}
    with running(tmp_path_factory.mktemp("bench"), CLIENTS, **settings) as found:
        warm = found.submit(**{"results.name": "warm", "federation.client-timeout-seconds": 120})
        assert found.finish(warm) == "finished:completed"
        yield found


def rounds(bench: Bench, name: str) -> list[dict[str, Any]]:
    """What the server has written of each round so far."""
    try:
        return read_metrics(bench.folder / "runs" / name)
    except Exception:  # not there yet, or half a line
        return []


def after_round(bench: Bench, name: str, number: int, timeout: float = 180) -> None:
    bench.until(lambda: len(rounds(bench, name)) >= number, timeout)


def left_out(bench: Bench, name: str) -> dict[int, dict[str, str]]:
    """Who was left out of which round, and why; rounds with everybody are not in it."""
    return {line["round"]: line["refused"] for line in rounds(bench, name) if line["refused"]}


def pids(bench: Bench, name: str) -> set[int]:
    return set(bench.pids(name))


def signal_all(bench: Bench, name: str, number: signal.Signals) -> None:
    for pid in pids(bench, name):
        os.kill(pid, number)


def start_until_it_stays(bench: Bench, client: int, **options: Any) -> None:
    """Start a client as a restart policy does: Flower refuses one that it still believes to be there, for a minute."""

    def stays() -> bool:
        process = bench.processes.get(f"client-{client}")
        if process is None or process.poll() is not None:
            bench.start_client(client, **options)
        time.sleep(10)
        return bench.processes[f"client-{client}"].poll() is None

    bench.until(stays, 150)


def test_a_killed_client_is_left_out_and_comes_back(bench: Bench) -> None:
    started = bench.submit(**{"results.name": "killed", "federation.rounds": 12})
    after_round(bench, "killed", 2)
    bench.stop("client-3")
    after_round(bench, "killed", 3, TIMEOUT + 60)
    start_until_it_stays(bench, 3)
    assert bench.finish(started) == "finished:completed"
    found = left_out(bench, "killed")
    assert found
    assert all(set(who) == {"3"} for who in found.values()), found
    assert 12 not in found
    print("left out:", found)


def test_a_stopped_client_loses_its_turn_and_its_late_reply_is_ignored(bench: Bench) -> None:
    started = bench.submit(**{"results.name": "stopped", "federation.rounds": 8})
    after_round(bench, "stopped", 2)
    signal_all(bench, "client-2", signal.SIGSTOP)
    after_round(bench, "stopped", 3, TIMEOUT + 60)
    signal_all(bench, "client-2", signal.SIGCONT)
    assert bench.finish(started) == "finished:completed"
    found = left_out(bench, "stopped")
    assert found
    assert all(set(who) == {"2"} for who in found.values()), found
    assert 8 not in found
    print("left out:", found)


def test_a_client_behind_a_broken_line_comes_back_when_it_is_mended(bench: Bench) -> None:
    bench.stop("client-1")
    with Relay(bench.port) as line:
        start_until_it_stays(bench, 1, address=line.address)
        started = bench.submit(
            **{"results.name": "line", "federation.rounds": 10, "federation.client-timeout-seconds": 2 * TIMEOUT}
        )
        after_round(bench, "line", 2)
        line.cut()
        after_round(bench, "line", 4, 4 * TIMEOUT + 60)
        line.mend()
        assert bench.finish(started, 600) == "finished:completed"
        found = left_out(bench, "line")
        assert found
        assert all(set(who) == {"1"} for who in found.values()), found
        assert 10 not in found
        print("left out:", found)
        bench.stop("client-1")
    start_until_it_stays(bench, 1)


def test_a_superlink_that_is_killed_and_started_again_costs_no_round(bench: Bench) -> None:
    settings = {"federation.rounds": 6, "federation.client-timeout-seconds": 120, "federation.min-fraction": 1.0}
    started = bench.submit(**{"results.name": "superlink", **settings})
    after_round(bench, "superlink", 2)
    bench.stop("superlink")
    time.sleep(5)
    bench.start_superlink()
    assert bench.finish(started, 600) == "finished:completed"
    assert [line["round"] for line in rounds(bench, "superlink")] == [1, 2, 3, 4, 5, 6]
    assert left_out(bench, "superlink") == {}


def test_a_database_that_is_locked_for_a_while_costs_nothing(bench: Bench) -> None:
    settings = {"federation.rounds": 4, "federation.client-timeout-seconds": 120, "federation.min-fraction": 1.0}
    started = bench.submit(**{"results.name": "locked", **settings})
    after_round(bench, "locked", 1)
    with sqlite3.connect(bench.folder / "superlink.db", isolation_level=None) as database:
        database.execute("BEGIN IMMEDIATE")
        time.sleep(12)
        database.execute("ROLLBACK")
    assert bench.finish(started) == "finished:completed"
    assert left_out(bench, "locked") == {}


def test_a_killed_serverapp_fails_visibly_and_resumes_to_the_same_numbers(bench: Bench, tmp_path: Path) -> None:
    settings = {"federation.rounds": 5, "federation.client-timeout-seconds": 120, "federation.min-fraction": 1.0}
    started = bench.submit(**{"results.name": "server", **settings})
    after_round(bench, "server", 2)
    for pid in pids(bench, "server") - {bench.processes["server"].pid}:
        os.kill(pid, signal.SIGKILL)
    assert bench.finish(started) == "finished:failed"
    again = {**settings, "results.name": "server", "results.resume": str(bench.folder / "runs" / "server")}
    assert bench.finish(bench.submit(**again)) == "finished:completed"
    reference = run(
        tmp_path,
        "reference",
        federation__clients=CLIENTS,
        partition__scheme="iid",
        federation__rounds=5,
    )
    found = bench.folder / "runs" / "server"
    assert same(weights(found), weights(reference))
    assert figures(found) == figures(reference)


def test_whatever_a_client_sends_the_others_go_on(bench: Bench) -> None:
    app = bench.folder / "rogue-app"
    shutil.copytree(ROOT, app, ignore=lambda _, names: [name for name in names if name.startswith(".")] + _big(names))
    shutil.copy(Path(__file__).with_name("rogue.py"), app / "client" / "rogue.py")
    source = (app / "client" / "app.py").read_text()
    changed = source.replace("mods=[", "mods=[lie, ").replace(
        "from client import resident\n", "from client import resident\nfrom client.rogue import lie\n"
    )
    assert changed.count("lie") == source.count("lie") + 2
    (app / "client" / "app.py").write_text(changed)
    settings = {"results.name": "rogue", "federation.rounds": len(LIES) + 1, "federation.client-timeout-seconds": 240}
    assert bench.finish(bench.submit(app, **settings), 900) == "finished:completed"
    found = left_out(bench, "rogue")
    for number, (_, reason) in enumerate(LIES, 1):
        assert list(found[number]) == ["0"]
        assert reason in found[number]["0"], found[number]
    assert len(LIES) + 1 not in found
    print("left out:", found)


def _big(names: list[str]) -> list[str]:
    return [name for name in names if name in {"runs", "data", "docs"}]


def test_fifty_rounds_leave_nothing_behind(bench: Bench) -> None:
    settings = {"federation.rounds": 50, "federation.client-timeout-seconds": 120, "federation.min-fraction": 1.0}
    started = bench.submit(**{"results.name": "long", "evaluate.every": 10, **settings})
    seen: dict[int, dict[str, list[int]]] = {}
    for number in range(5, 50, 5):
        after_round(bench, "long", number, 600)
        seen[number] = {name: _held(pids(bench, name)) for name in bench.processes}
    assert bench.finish(started, 600) == "finished:completed"
    print(json.dumps(seen))
    for name in bench.processes:
        early, late = (
            [max(values) for values in zip(*(seen[number][name] for number in numbers), strict=True)]
            for numbers in ((10, 15, 20), (35, 40, 45))
        )
        assert late[0] <= early[0] * 1.1 + 20, (name, "MB", early, late)
        assert late[1] <= early[1] + 5, (name, "file descriptors", early, late)
        assert late[2] <= early[2] + 1, (name, "processes", early, late)


def _held(found: set[int]) -> list[int]:
    """Private memory of processes in MB, their file descriptors, their number."""
    memory = descriptors = 0
    for pid in found:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            memory += sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) // 1024
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:  # it has ended
            continue
    return [memory, descriptors, len(found)]
