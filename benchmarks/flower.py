"""Flower's own command with a home and a SuperLink of its own, and the stock app timed under it."""

import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.harness import Figures, resident_bytes

STOCK = Path(__file__).parent / "stock_flower"
FLWR = str(Path(sys.executable).with_name("flwr"))


class Flower:
    """A context with a fresh Flower home; the first run in it starts a SuperLink, which later runs find.

    Args:
        timeout: seconds that one run may take.
    """

    def __init__(self, timeout: float = 3600) -> None:
        self.timeout = timeout
        self.output = ""
        """What the last run printed."""

    def __enter__(self) -> Self:
        self.home = Path(tempfile.mkdtemp(prefix="flower-"))
        http, control = free_ports(2)
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
            "FLWR_HOME": str(self.home),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(http),
            "FLWR_LOCAL_CONTROL_API_PORT": str(control),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # The app's dependencies are those of this environment: nothing to install for each run.
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            # Under `uv run` Ray would start its workers through uv, in an environment of their own.
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            # No figure may hang on the network.
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        return self

    def __exit__(self, *_: object) -> None:
        left = set(self.pids())
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in left:
                _kill(pid, number)
            deadline = time.monotonic() + 5
            while left and time.monotonic() < deadline:
                time.sleep(0.2)
                left = (left & set(_parents())) | set(self.pids())
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self) -> None:
        """Start the SuperLink before the first run does, which waits 15 s for it: too few on a busy machine.

        Raises:
            TimeoutError: it does not answer after 120 s.
        """
        port = self.environment["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"]
        control = self.environment["FLWR_LOCAL_CONTROL_API_PORT"]
        subprocess.Popen(  # noqa: S603
            [
                *(str(Path(sys.executable).with_name("flower-superlink")), "--insecure", "--simulation"),
                *("--isolation", "subprocess", "--control-api-address", f"127.0.0.1:{control}"),
                *("--host", "127.0.0.1", "--port", port, "--database", str(self.home / "state.db")),
            ],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while not _healthy(int(port)):
            if time.monotonic() > deadline:
                raise TimeoutError("flower-superlink does not answer after 120 s")
            time.sleep(0.2)

    def run(self, app: Path, nodes: int, cpus_per_client: int, settings: Mapping[str, object]) -> float:
        """Run an app to its end.

        Args:
            app: folder with its ``pyproject.toml``.
            nodes: number of SuperNodes.
            cpus_per_client: what Ray reserves for each; all cores divided by this is the number of actors.
            settings: run config, by its own keys.

        Returns:
            ``time.time()`` when the command was started.

        Raises:
            RuntimeError: the run did not complete; with the end of its output.
        """
        federation = f"num-supernodes={nodes} client-resources-num-cpus={cpus_per_client}"
        values = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        started = time.time()
        self.output = self._call(
            "run", str(app.resolve()), "--stream", "--federation-config", federation, "--run-config", values
        )
        status = self._status(self.output)
        if status != "finished:completed":
            raise RuntimeError(f"flwr run {app.name}: {status}\n{self.output[-4000:]}")
        return started

    def pids(self) -> list[int]:
        """Return all live processes: command, SuperLink, Ray and its actors."""
        # Ray's workers write their titles over their environment: they are known by their parents.
        return family(set(with_environment(f"FLWR_HOME={self.home}")))

    def _call(self, *arguments: str) -> str:
        done = subprocess.run(  # noqa: S603
            [FLWR, *arguments],
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.timeout,
            check=False,
        )
        return done.stdout

    def _status(self, output: str) -> str:
        """Return how a run ended: the command itself exits with 0 even when the run fails."""
        number = re.search(r"Successfully started run (\d+)", output)
        if number is None:
            return "not started"
        listed = self._call("list", "--run-id", number[1], "--format", "json")
        try:
            return str(json.loads(listed)["runs"][0]["status"])
        except (ValueError, LookupError):
            return f"unknown: {listed[-1000:]}"


class Peak:
    """While the context is open, samples the memory of all processes of a Flower, each shared page once."""

    def __init__(self, flower: Flower, seconds: float = 0.5) -> None:
        self.flower = flower
        self.seconds = seconds
        self.bytes = 0

    def __enter__(self) -> Self:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(self.seconds):
            self.bytes = max(self.bytes, resident_bytes(self.flower.pids()))


def time_stock(
    flower: Flower,
    folder: Path,
    data: Path,
    rounds: int,
    *,
    nodes: int = 10,
    cpus_per_client: int = 1,
    memory: bool = True,
    **settings: object,
) -> Figures:
    """Make one run of the stock app.

    Args:
        flower: a fresh one, if the start of the SuperLink is to be in the figures.
        folder: takes the log of times, ``stock.jsonl``.
        data: ``.npz`` file, see the app's ``pyproject.toml``.
        rounds: 2 or more.
        nodes: number of clients.
        cpus_per_client: see ``Flower.run``.
        memory: measure it too. Counting the pages of a dozen processes takes a tenth of a second of one core each
            time: leave it out where the seconds matter.
        settings: more run config, with underscores for hyphens: ``attack_steps=7``.

    Returns:
        ``to_server``: seconds from the command to the ServerApp's first line. ``to_first_step``: seconds from the
        command to the first client that is about to compute its first gradient. ``first_round``: seconds from the
        ServerApp's first line to the end of round 1. ``later_round``: median of the other rounds. ``peak_bytes``, with
        ``memory``: the most that all processes of the run held at once.

    Raises:
        RuntimeError: the run failed, or a client did in any round, which Flower itself passes over.
    """
    log = folder.resolve() / "stock.jsonl"
    log.unlink(missing_ok=True)
    config: dict[str, object] = {
        "num-server-rounds": rounds,
        "data-path": str(data.resolve()),
        "log-path": str(log),
        **{key.replace("_", "-"): value for key, value in settings.items()},
    }
    with Peak(flower) if memory else contextlib.nullcontext() as peak:
        started = flower.run(STOCK, nodes, cpus_per_client, config)
    lines = events(log)
    replies = len(_times(lines, "client"))
    if replies != rounds * nodes:
        raise RuntimeError(f"stock_flower: {replies} replies, not {rounds} x {nodes}\n{flower.output[-4000:]}")
    server = _times(lines, "server")[0]
    ends = _times(lines, "round")  # round 0 is the evaluation before the first round
    return {
        "to_server": server - started,
        "to_first_step": min(_times(lines, "first-step")) - started,
        "first_round": ends[1] - server,
        "later_round": statistics.median(end - begin for begin, end in itertools.pairwise(ends[1:])),
        **({"peak_bytes": float(peak.bytes)} if peak else {}),
    }


def family(found: set[int]) -> list[int]:
    """Return processes and all that they have started."""
    parents = _parents()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found = found | more
    return sorted(found)


def with_environment(setting: str) -> list[int]:
    """Return the live processes whose environment has a setting, ``NAME=value``."""
    return sorted(pid for pid in _parents() if setting.encode() in _environment(pid))


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return what processes have computed, and the children that they have waited for, in seconds."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended while we looked
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def events(path: Path) -> list[dict[str, Any]]:
    """Read a log of times: one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _times(lines: list[dict[str, Any]], event: str) -> list[float]:
    return [float(line["time"]) for line in lines if line["event"] == event]


def _stat(pid: int) -> list[str]:
    """Return what Linux tells of a process after its name, which may hold anything: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _parents() -> dict[int, int]:
    """Return the parent of every live process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = _stat(int(entry.name))[:2]
            except OSError:  # it ended while we looked
                continue
            if state not in "ZX":
                found[int(entry.name)] = int(parent)
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it ended, or is not ours
        return []


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.kill(pid, number)
