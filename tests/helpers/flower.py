"""Flower's own command with a home and a SuperLink of its own."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.helpers.processes import family, free_ports, live_parents, send, with_environment

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
                send(pid, number)
            deadline = time.monotonic() + 5
            while left and time.monotonic() < deadline:
                time.sleep(0.2)
                left = (left & set(live_parents())) | set(self.pids())
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self) -> None:
        """Start the SuperLink before the first run does, which waits 15 s for it: too few on a busy machine.

        Raises:
            TimeoutError: it does not answer after 120 s.
        """
        port = self.environment["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"]
        control = self.environment["FLWR_LOCAL_CONTROL_API_PORT"]
        subprocess.Popen(
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
        done = subprocess.run(
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


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
