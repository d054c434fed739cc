"""Flower's own command: `flwr run` on its Ray engine gives the numbers of `fedshield run`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.test_federation import figures, run, same, weights

FLWR = str(Path(sys.executable).with_name("flwr"))
ROOT = Path(__file__).parents[1]

FlwrRun = Callable[..., tuple[str, dict[str, str]]]


@pytest.fixture(scope="module")
def flwr_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlwrRun]:
    """Run the app with a Flower home and a SuperLink of the test's own, which is ended afterwards."""
    home = tmp_path_factory.mktemp("flwr")
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        # The app's dependencies are those of this environment: nothing to install for each run.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [FLWR, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        return done.stdout + done.stderr

    def start(federation: str, **settings: object) -> tuple[str, dict[str, str]]:
        values = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        output = call("run", ".", "--stream", "--federation-config", federation, "--run-config", values)
        # `flwr run` exits with 0 when the run fails: its list tells how it ended.
        listed = json.loads(call("list", "--format", "json"))
        return output, listed["runs"][0]

    yield start
    for process in started_with(f"FLWR_HOME={home}"):
        os.kill(process, signal.SIGTERM)


def started_with(setting: str) -> list[int]:
    """Process ids of the SuperLink that has ``setting`` in its environment, and of what it started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and setting.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # it ended while we looked
            continue
    return found


def test_flwr_run_gives_the_same_numbers(tmp_path: Path, flwr_run: FlwrRun) -> None:
    settings = {**TINY, "results.dir": str(tmp_path), "results.name": "flower"}
    output, listed = flwr_run("num-supernodes=10 client-resources-num-cpus=1", **settings)
    assert listed["status"] == "finished:completed", output
    assert f"Run directory: {tmp_path}/flower" in output
    assert "round 2/2  natural" in output
    reference = run(tmp_path, "inprocess")
    assert same(weights(tmp_path / "flower"), weights(reference))
    assert figures(tmp_path / "flower") == figures(reference)


def test_too_few_supernodes_end_with_one_line_that_helps(tmp_path: Path, flwr_run: FlwrRun) -> None:
    settings = {**TINY, "results.dir": str(tmp_path), "federation.node-wait-seconds": 2}
    output, listed = flwr_run("num-supernodes=2 client-resources-num-cpus=1", **settings)
    assert listed["status"] == "finished:failed"
    expected = (
        "federation.clients = 10, but 2 nodes are there after 2 s; start the run with: flwr run . --stream "
        '--federation-config "num-supernodes=10 client-resources-num-cpus=1"'
    )
    assert expected in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []
