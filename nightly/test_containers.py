"""Faults done to the containers of docker-compose.yml; what they cost is in docs/reliability.md.

Needs a Docker engine, with Compose 1.29 or later, and half an hour:
``uv run --group dev pytest nightly/test_containers.py -n 0``.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.paths import ROOT
from server.run_directory.reader import read_metrics
from tests import conftest
from tests.helpers.program import fedshield
from tests.helpers.runs import figures, same, weights

PROJECT = "fedshield-nightly"
FLEET = f"{PROJECT}_fleet"
TIMEOUT = 60
CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
COMPOSE = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
INSECURE = ("-f", "docker-compose.yml", "-f", "docker-compose.insecure.yml")


def command(*words: str, check: bool = True, **environment: str) -> str:
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0 or not check, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def compose(*words: str, **settings: Any) -> str:
    return command(*COMPOSE, "-p", PROJECT, *words, **settings)


@contextlib.contextmanager
def up(run: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The documented command, while something is done to its containers."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMPOSE, "-p", PROJECT, "up", "--exit-code-from", "run"],
            cwd=ROOT,
            env={**os.environ, "FEDSHIELD_RUN": run},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(120)


def container(service: str) -> str:
    return compose("ps", "-q", service)


def kill(service: str, program: str, name: str = "KILL") -> None:
    """Send a signal to the processes of a program in a container, from outside."""
    lines = command("docker", "top", container(service), "-o", "pid,args").splitlines()
    found = [line.split(None, 1) for line in lines]
    pids = [pid for pid, words in found if program in words and "again.sh" not in words]
    assert pids, found
    sent = f"kill -{name} {' '.join(pids)}"
    command("docker", "run", "--rm", "--pid=host", "--user=0", "--cap-add=KILL", "fedshield", "sh", "-c", sent)


def rounds(name: str) -> list[dict[str, Any]]:
    server = compose("ps", "-q", "server") or "not-yet"
    text = command("docker", "exec", server, "cat", f"/runs/{name}/metrics.jsonl", check=False)
    return [json.loads(line) for line in text.splitlines()]


def until(holds: Callable[[], bool], timeout: float) -> None:
    conftest.until(holds, timeout, 2, lambda: compose("logs", "--tail=40", check=False))


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    compose("build", "prepare")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Nothing is left of a test."""
    yield
    compose("down", "--volumes", "--timeout=5")
    for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls")):
        assert PROJECT not in command("docker", *kind)


def fetch_runs(folder: Path) -> Path:
    command("docker", "cp", f"{compose('ps', '-aq', 'server')}:/runs", str(folder))
    return folder / "runs"


def ends_as_the_simulation(folder: Path, preset: str, root: Path | None = None, rounds: int = 2) -> Path:
    """Run a preset in containers and in one process, and compare weights and figures; return the latter's directory."""
    keys = f"{preset} --set federation.rounds={rounds} --set threads=1"
    environment = {"FEDSHIELD_RUN": f"{keys} --set results.name=plain", "FEDSHIELD_DATA": str(root or folder)}
    compose("up", "--exit-code-from", "run", **environment)
    here = [f"--set=data.root={root}/cifar10-jpeg"] if root else []
    done = fedshield("run", *keys.split(), *here, f"--results={folder}", "--name=simulated")
    assert done.returncode == 0, done.stderr
    assert same(weights(fetch_runs(folder) / "plain"), weights(folder / "simulated"))
    assert figures(folder / "runs" / "plain") == figures(folder / "simulated")
    both = (read_metrics(folder / where) for where in ("runs/plain", "simulated"))
    for there, here in zip(*both, strict=True):
        assert [there.get(key) for key in ("privacy", "repairs")] == [here.get(key) for key in ("privacy", "repairs")]
    return folder / "simulated"


def test_ten_containers_give_the_numbers_of_the_simulation(tmp_path: Path) -> None:
    ends_as_the_simulation(tmp_path, "quickstart")


def test_ten_containers_with_differential_privacy_give_the_numbers_of_the_simulation(tmp_path: Path) -> None:
    seeded = "--set privacy.noise-multiplier=1 --set privacy.noise=seeded --set model.norm=group"
    path = ends_as_the_simulation(tmp_path, f"quickstart {seeded}")
    assert read_metrics(path)[-1]["privacy"]["epsilon"] > 0


def test_ten_containers_are_repaired_as_the_simulation(tmp_path: Path) -> None:
    diverges = "--set train.learning-rate=5.0 --set strategy.update-limit=0 --set attack.steps=1 --set model.width=4"
    mended = "--set repair.enabled=true --set repair.rate-factor=0.001 --set data.max-examples=300"
    path = ends_as_the_simulation(tmp_path, f"quickstart {diverges} {mended}", rounds=6)
    assert [each["action"] for line in read_metrics(path) for each in line["repairs"]][:1] == ["roll-back"]


@pytest.mark.skipif(not CIFAR10.is_file(), reason="CIFAR-10 is not at hand")
def test_ten_containers_give_the_numbers_of_the_simulation_on_cifar10(tmp_path: Path) -> None:
    (tmp_path / "data" / "cifar10-jpeg").mkdir(parents=True)
    command("tar", "-xJf", str(CIFAR10), "-C", str(tmp_path / "data" / "cifar10-jpeg"))
    for folder in (tmp_path, *tmp_path.parents[:2]):  # the containers' user is another
        folder.chmod(0o755)
    small = "cpu-cifar10 --set data.max-examples=2000 --set evaluate.examples=200 --set evaluate.final-examples=500"
    ends_as_the_simulation(tmp_path, small, tmp_path / "data")


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


def test_strangers_are_refused_at_the_gateway() -> None:
    compose("up", "-d", "client-3")

    def ended(options: str) -> str:
        line = f"""fedshield certs --out /tmp/others --clients 4 >/dev/null && ! timeout 60 fedshield-supernode \
            --superlink gateway:8000 --node-config "partition-id=3 num-partitions=10" --max-retries 1 {options} 2>&1"""
        volume = f"{PROJECT}_client-3:/federation:ro"
        return command("docker", "run", "--rm", f"--network={FLEET}", f"-v={volume}", "fedshield", "sh", "-c", line)

    own, others = "/federation", "/tmp/others"
    wrong_key = ended(f"--root-certificates {own}/ca.crt --auth-supernode-private-key {others}/client-3/client.key")
    wrong_authority = ended(f"--root-certificates {others}/ca.crt --auth-supernode-private-key {own}/client.key")
    assert "Failed to activate SuperNode" in wrong_key
    assert f"gateway:8000: its certificate was not signed by {others}/ca.crt (" in wrong_authority
    assert "Traceback" not in wrong_key + wrong_authority


def test_fewer_clients_without_tls(tmp_path: Path) -> None:
    three = "quickstart --set federation.clients=3 --set partition.scheme=iid"
    run = f"{three} --set federation.rounds=1 --set results.name=open"
    compose(*INSECURE, "up", "--exit-code-from", "run", "run", "client-0", "client-1", "client-2", FEDSHIELD_RUN=run)
    summary = json.loads((fetch_runs(tmp_path) / "open" / "summary.json").read_text())
    assert summary["rounds"] == 1


def test_a_mistake_in_the_settings_is_the_last_line(tmp_path: Path) -> None:
    with up("quickstart --set federation.clients=3", tmp_path / "log") as process:
        assert process.wait(300) == 1
    told = [line for line in (tmp_path / "log").read_text().splitlines() if "run_1" in line or "run-1" in line]
    assert "fedshield: federation.clients = 3: partition.scheme = paper is made for 10 clients" in told[-2]
    assert "exited with code 1" in told[-1]


def test_a_run_goes_on_while_processes_die_hang_and_lose_their_network(tmp_path: Path) -> None:
    name, total = "faults", 14
    run = (
        f"quickstart --set federation.rounds={total} --set federation.client-timeout-seconds={TIMEOUT} "
        f"--set evaluate.examples=50 --set results.name={name}"
    )

    def left_out(client: int) -> Callable[[], bool]:
        return lambda: any(str(client) in line["refused"] for line in rounds(name))

    with up(run, tmp_path / "log") as process:
        until(lambda: bool(rounds(name)), 600)
        kill("client-1", "fedshield-supernode")
        until(left_out(1), 4 * TIMEOUT)
        kill("client-2", "python", "STOP")  # as docker pause, which not every machine can
        until(left_out(2), 4 * TIMEOUT)
        kill("client-2", "python", "CONT")
        command("docker", "network", "disconnect", FLEET, container("client-3"))
        until(left_out(3), 4 * TIMEOUT)
        command("docker", "network", "connect", FLEET, container("client-3"))
        kill("superlink", "fedshield-superlink")
        assert process.wait(total * 60) == 0, (tmp_path / "log").read_text()[-3000:]
    lines = [json.loads(line) for line in (fetch_runs(tmp_path) / name / "metrics.jsonl").read_text().splitlines()]
    found = {line["round"]: set(line["refused"]) for line in lines}
    print("left out:", {number: sorted(who) for number, who in found.items() if who})
    assert set().union(*found.values()) == {"1", "2", "3"}, found
    assert list(found) == list(range(1, total + 1))
    assert found[total] == set(), found


def test_a_killed_serverapp_ends_the_command_and_the_run_is_resumed(tmp_path: Path) -> None:
    run = "quickstart --set federation.rounds=3"
    with up(f"{run} --set results.name=server", tmp_path / "log") as process:
        until(lambda: bool(rounds("server")), 600)
        kill("server", "flwr-serverapp")
        assert process.wait(300) == 1, (tmp_path / "log").read_text()[-3000:]
    compose("up", "--exit-code-from", "run", FEDSHIELD_RUN=f"{run} --set results.resume=/runs/server")
    lines = (fetch_runs(tmp_path) / "server" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]
