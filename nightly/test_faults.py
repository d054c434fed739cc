"""Faults done to real processes over TLS; what they cost is in docs/reliability.md.

Some minutes each, so not among the tests of every change: ``uv run --group dev pytest nightly -n 0``.
"""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.paths import ROOT
from nightly.relay import Relay
from nightly.rogue import LIES
from server.run_directory.reader import read_metrics
from tests.helpers.bench import Bench, running
from tests.helpers.runs import figures, run, same, weights

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


def signal_all(bench: Bench, name: str, number: signal.Signals) -> None:
    for pid in bench.pids(name):
        os.kill(pid, number)


@contextlib.contextmanager
def kept_running(bench: Bench, client: int, **options: Any) -> Iterator[None]:
    """Start a client again and again, as a restart policy does.

    Flower refuses one that it still believes to be there, for a minute.
    """
    over = threading.Event()

    def keep() -> None:
        while not over.is_set():
            process = bench.processes.get(f"client-{client}")
            if process is None or process.poll() is not None:
                bench.start_client(client, **options)
            over.wait(3)

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def until_all_answer(bench: Bench, name: str, after: int = 0) -> None:
    """Wait for a round in which nobody is left out."""
    bench.until(lambda: any(line["round"] > after and not line["refused"] for line in rounds(bench, name)), 300)


def end(bench: Bench, run: str) -> None:
    bench.control._call("stop", run, "it")
    assert bench.finish(run) == "finished:stopped"


def only(bench: Bench, name: str, client: int) -> None:
    """Nobody but one client was left out, and it was."""
    found = left_out(bench, name)
    print("left out:", found)
    assert found
    assert all(set(who) == {str(client)} for who in found.values()), found


def test_a_killed_client_is_left_out_and_comes_back(bench: Bench) -> None:
    started = bench.submit(**{"results.name": "killed", "federation.rounds": 500})
    after_round(bench, "killed", 2)
    bench.stop("client-3")
    after_round(bench, "killed", 3, TIMEOUT + 60)
    with kept_running(bench, 3):
        until_all_answer(bench, "killed", 3)
    end(bench, started)
    only(bench, "killed", 3)


def test_a_stopped_client_loses_its_turn_and_its_late_reply_is_ignored(bench: Bench) -> None:
    started = bench.submit(**{"results.name": "stopped", "federation.rounds": 500})
    after_round(bench, "stopped", 2)
    signal_all(bench, "client-2", signal.SIGSTOP)
    after_round(bench, "stopped", 3, TIMEOUT + 60)
    signal_all(bench, "client-2", signal.SIGCONT)
    until_all_answer(bench, "stopped", 3)
    end(bench, started)
    only(bench, "stopped", 2)


def test_a_slow_client_is_waited_for_until_the_deadline(bench: Bench) -> None:
    settings = {"federation.rounds": 6, "federation.client-timeout-seconds": 4 * TIMEOUT}
    started = bench.submit(**{"results.name": "slow", **settings})
    after_round(bench, "slow", 1)
    signal_all(bench, "client-2", signal.SIGSTOP)
    time.sleep(TIMEOUT)
    signal_all(bench, "client-2", signal.SIGCONT)
    assert bench.finish(started) == "finished:completed"
    assert left_out(bench, "slow") == {}
    assert max(line["seconds"] for line in rounds(bench, "slow")) > TIMEOUT / 2


def test_a_client_with_a_damaged_image_names_it_and_is_left_out_until_it_is_mended(bench: Bench) -> None:
    image = next((bench.folder / "data" / "client-2" / "train").rglob("*.png"))
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    settings = {"federation.rounds": 2, "federation.node-wait-seconds": 1, "federation.client-timeout-seconds": 120}
    assert bench.finish(bench.submit(**{"results.name": "damaged", **settings})) == "finished:completed"
    image.write_bytes(whole)
    only(bench, "damaged", 2)
    # The client's own log has the whole path, and the server, which is another's, the name alone.
    assert all(f"{image.name}: not a readable image" in who["2"] for who in left_out(bench, "damaged").values())
    assert f"{image}: not a readable image" in (bench.folder / "client-2.log").read_text()
    assert str(image.parent) not in (bench.folder / "server.log").read_text()
    assert bench.finish(bench.submit(**{"results.name": "mended", **settings})) == "finished:completed"
    assert left_out(bench, "mended") == {}


def test_a_client_behind_a_broken_line_comes_back_when_it_is_mended(bench: Bench) -> None:
    bench.stop("client-1")
    with Relay(bench.port) as line, kept_running(bench, 1, address=line.address):
        started = bench.submit(**{"results.name": "line", "federation.rounds": 500})
        until_all_answer(bench, "line")
        joined = len(rounds(bench, "line"))
        line.cut()
        after_round(bench, "line", joined + 2, 4 * TIMEOUT + 60)
        line.mend()
        until_all_answer(bench, "line", joined + 2)
        end(bench, started)
    only(bench, "line", 1)
    bench.stop("client-1")
    with kept_running(bench, 1):
        started = bench.submit(**{"results.name": "straight", "federation.rounds": 500})
        until_all_answer(bench, "straight")
        end(bench, started)


def test_a_superlink_that_is_killed_and_started_again_three_times_costs_no_round(bench: Bench) -> None:
    settings = {"federation.rounds": 8, "federation.client-timeout-seconds": 120, "federation.min-fraction": 1.0}
    started = bench.submit(**{"results.name": "superlink", **settings})
    for number in (2, 4, 6):
        after_round(bench, "superlink", number, 300)
        bench.stop("superlink")
        time.sleep(5)
        bench.start_superlink()
    assert bench.finish(started, 600) == "finished:completed"
    assert [line["round"] for line in rounds(bench, "superlink")] == list(range(1, 9))
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


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five rounds of the same federation in one process."""
    changes = {"federation__clients": CLIENTS, "partition__scheme": "iid", "federation__rounds": 5}
    return run(tmp_path_factory.mktemp("simulated"), "reference", **changes)


def test_a_killed_serverapp_fails_visibly_and_resumes_to_the_same_numbers(bench: Bench, simulated: Path) -> None:
    settings = {"federation.rounds": 5, "federation.client-timeout-seconds": 120, "federation.min-fraction": 1.0}
    started = bench.submit(**{"results.name": "server", **settings})
    after_round(bench, "server", 2)
    for pid in set(bench.pids("server")) - {bench.processes["server"].pid}:
        os.kill(pid, signal.SIGKILL)
    assert bench.finish(started) == "finished:failed"
    # And the disk has lost the end of the last model: the one before it is there.
    folder = bench.folder / "runs" / "server" / "checkpoint"
    last = folder / json.loads((folder / "checkpoint.json").read_text())["model"]
    last.write_bytes(last.read_bytes()[:-100])
    again = {**settings, "results.name": "server", "results.resume": str(bench.folder / "runs" / "server")}
    assert bench.finish(bench.submit(**again)) == "finished:completed"
    found = bench.folder / "runs" / "server"
    assert same(weights(found), weights(simulated))
    assert figures(found) == figures(simulated)


def test_a_full_disk_ends_the_run_visibly_and_it_resumes(bench: Bench, simulated: Path) -> None:
    settings = {"federation.rounds": 5, "federation.client-timeout-seconds": 120, "federation.min-fraction": 1.0}
    run = bench.folder / "runs" / "full"
    with small_disk(run):
        started = bench.submit(**{"results.name": "full", **settings})
        after_round(bench, "full", 2)
        fill(run / "filler")
        assert bench.finish(started) == "finished:failed"
        told = bench.control._call("log", started, "it", "--show")
        assert "No space left on device; free some disk space" in told
        (run / "filler").unlink()
        again = {**settings, "results.resume": str(run)}
        assert bench.finish(bench.submit(**again)) == "finished:completed"
        assert [line["round"] for line in rounds(bench, "full")] == [1, 2, 3, 4, 5]
        assert figures(run) == figures(simulated)


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """Put a disk of 8 MB in a place, while the context lasts."""
    place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=False).returncode:
        pytest.skip("only root can make a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(file: Path) -> None:
    """Take all the room that is left on a disk."""
    with contextlib.suppress(OSError), file.open("wb") as taken:
        while True:
            taken.write(bytes(4096))
            taken.flush()


def test_a_full_disk_of_the_superlink_ends_the_run_visibly_and_it_resumes(tmp_path: Path) -> None:
    settings = {"federation.rounds": 15, "federation.client-timeout-seconds": 60, "federation.min-fraction": 0.5}
    state = tmp_path / "state"
    with small_disk(state), Bench(tmp_path / "bench", 2, settings) as bench:
        bench.database = state / "superlink.db"
        bench.start_all()
        started = bench.submit(**{"results.name": "full"})
        after_round(bench, "full", 2, 300)
        fill(state / "fill")
        bench.until(lambda: bench.processes["server"].poll() is not None, 120)  # the SuperExec gives up
        assert "database or disk is full" in (bench.folder / "superlink.log").read_text()
        (state / "fill").unlink()
        assert bench.finish(started, 300) == "finished:failed"
        bench.start_server()
        with kept_running(bench, 0), kept_running(bench, 1):
            resumed = bench.submit(**{"results.resume": str(bench.folder / "runs" / "full")})
            assert bench.finish(resumed, 900) == "finished:completed", bench.logs()
        assert [line["round"] for line in rounds(bench, "full")] == list(range(1, 16))


def test_whatever_a_client_sends_the_others_go_on(bench: Bench) -> None:
    app = bench.folder / "rogue-app"
    shutil.copytree(ROOT, app, ignore=lambda _, names: [name for name in names if name.startswith(".")] + _big(names))
    shutil.copy(Path(__file__).with_name("rogue.py"), app / "client" / "rogue.py")
    source = (app / "client" / "app.py").read_text()
    changed = source.replace("_name_mistakes])", "lie, _name_mistakes])").replace(
        "from client.supernode import worker\n", "from client.supernode import worker\nfrom client.rogue import lie\n"
    )
    assert "rogue import lie\n" in changed
    assert "lie, _name_mistakes])" in changed
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
        seen[number] = {name: _held(bench.pids(name)) for name in bench.processes}
    assert bench.finish(started, 600) == "finished:completed"
    print(json.dumps(seen))
    for name in bench.processes:
        early, late = (  # the least: at some moment a process for a message is there, with its descriptors
            [min(values) for values in zip(*(seen[number][name] for number in numbers), strict=True)]
            for numbers in ((10, 15, 20), (35, 40, 45))
        )
        assert late[0] <= early[0] * 1.1 + 20, (name, "MB", early, late)
        assert late[1] <= early[1] + 5, (name, "file descriptors", early, late)
        assert late[2] <= early[2], (name, "processes", early, late)


def _held(found: list[int]) -> list[int]:
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
