"""Faults done to the containers of docker-compose.yml; what they cost is in docs/reliability.md.

Needs a Docker engine, with Compose 1.29 or later: ``uv run pytest nightly/test_containers.py -n 0``.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench import ROOT
from tests.test_cli import fedshield
from tests.test_federation import figures, same, weights

PROJECT = "fedshield-nightly"
TIMEOUT = 60


def command(*words: str, check: bool = True, **environment: str) -> str:
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0 or not check, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def compose(*words: str, **settings: Any) -> str:
    base = ("docker-compose",) if shutil.which("docker-compose") else ("docker", "compose")
    return command(*base, "-p", PROJECT, *words, **settings)


def container(service: str) -> str:
    return compose("ps", "-q", service).splitlines()[0]


def kill(service: str) -> None:
    """End a container's process from outside: a crash for Docker's restart policy, which docker kill is not."""
    pid = command("docker", "inspect", "--format", "{{.State.Pid}}", container(service))
    command("docker", "run", "--rm", "--pid=host", "--user=0", "--cap-add=KILL", "fedshield", "kill", "-9", pid)


def rounds(name: str) -> list[dict[str, Any]]:
    text = command("docker", "exec", container("server"), "cat", f"/runs/{name}/metrics.jsonl", check=False)
    return [json.loads(line) for line in text.splitlines()]


def until(holds: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, compose("logs", "--tail=40", check=False)
        time.sleep(2)


@pytest.fixture(scope="module", autouse=True)
def images() -> Iterator[None]:
    compose("build", "prepare")
    try:
        yield
    finally:
        compose("down", "--volumes", "--timeout=5")
    for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls")):
        assert PROJECT not in command("docker", *kind)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    compose("down", "--timeout=5")


def test_ten_containers_give_the_numbers_of_the_simulation(tmp_path: Path) -> None:
    keys = "--set federation.rounds=2 --set threads=1"
    compose("up", "--exit-code-from", "run", FEDSHIELD_RUN=f"quickstart {keys} --set results.name=plain")
    command("docker", "cp", f"{compose('ps', '-aq', 'server')}:/runs", str(tmp_path))
    done = fedshield("run", "quickstart", *keys.split(), f"--results={tmp_path}", "--name=simulated")
    assert done.returncode == 0, done.stderr
    assert same(weights(tmp_path / "runs" / "plain"), weights(tmp_path / "simulated"))
    assert figures(tmp_path / "runs" / "plain") == figures(tmp_path / "simulated")


# What a client finds out about its surroundings; anything but "refused" is more than it should have.
PROBE = """
import http.client, json, os, pathlib, socket, ssl

def attempt(what):
    try:
        return what()
    except OSError:
        return "refused"

def ask(path):
    trusted = ssl.create_default_context(cafile="/federation/ca.crt")
    connection = http.client.HTTPSConnection("gateway", 8000, context=trusted, timeout=20)
    connection.request("POST", path)
    return connection.getresponse().status

status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
paths = ["/", "/v1/control/list-runs", "/v1/runtime/pull", "/v1/fleet/../control/x", "/v1/fleet/%2e%2e/control/x"]
print(json.dumps({
    "files": sorted(os.listdir("/federation")),
    "user": os.getuid(),
    "capabilities": int(status["CapEff"], 16),
    "new privileges": status["NoNewPrivs"].strip(),
    "gateway": [ask(path) for path in paths],
    "superlink": attempt(lambda: bool(socket.create_connection(("superlink", 8000), 5))),
    "world": attempt(lambda: bool(socket.create_connection(("1.1.1.1", 443), 5))),
    "own data": attempt(lambda: pathlib.Path("/federation/train/x").write_text("")),
    "app": attempt(lambda: pathlib.Path("/app/x").write_text("")),
}))
"""


def test_nobody_holds_or_reaches_more_than_they_need() -> None:
    compose("up", "-d", "client-3")
    client = json.loads(command("docker", "exec", container("client-3"), "python", "-c", PROBE))
    assert client == {
        "files": ["ca.crt", "client.key", "split.json", "train"],
        "user": 10001,
        "capabilities": 0,
        "new privileges": "1",
        "gateway": [403] * 5,
        **dict.fromkeys(("superlink", "world", "own data", "app"), "refused"),
    }

    def files(service: str) -> set[str]:
        return set(command("docker", "exec", container(service), "ls", "/federation").split())

    assert files("gateway") == {"ca.crt", "server.crt", "server.key"}
    assert files("superlink") == {"ca.crt", "server.crt", "server.key", "superexec-secret"}
    assert files("server") == {"ca.crt", "superexec-secret", "split.json", "pool", "test", "validation"}
    assert files("run") == {"ca.crt", "clients"}
    running = compose("ps", "-q").splitlines()
    assert "".join(command("docker", "port", each) for each in running) == "8000/tcp -> 127.0.0.1:8000"


def test_a_run_goes_on_while_containers_die_hang_and_lose_their_network() -> None:
    name, total = "faults", 14
    keys = (
        f"--set federation.rounds={total} --set federation.client-timeout-seconds={TIMEOUT} --set evaluate.examples=50"
    )
    compose("up", "-d", FEDSHIELD_RUN=f"quickstart {keys} --set results.name={name}")
    network = f"{PROJECT}_fleet"

    def passes(number: int) -> None:
        until(lambda: len(rounds(name)) >= number, number * 30 + 4 * TIMEOUT)

    def left_out(client: int) -> Callable[[], bool]:
        return lambda: any(str(client) in line["refused"] for line in rounds(name))

    passes(1)
    kill("client-1")
    until(left_out(1), 4 * TIMEOUT)
    command("docker", "pause", container("client-2"))
    until(left_out(2), 4 * TIMEOUT)
    command("docker", "unpause", container("client-2"))
    command("docker", "network", "disconnect", network, container("client-3"))
    until(left_out(3), 4 * TIMEOUT)
    command("docker", "network", "connect", network, container("client-3"))
    kill("superlink")
    until(lambda: len(rounds(name)) == total, total * 60)
    assert command("docker", "wait", compose("ps", "-aq", "run")) == "0"
    found = {line["round"]: set(line["refused"]) for line in rounds(name)}
    assert set().union(*found.values()) == {"1", "2", "3"}, found
    assert found[total] == set(), found
    print("left out:", {number: sorted(who) for number, who in found.items() if who})
