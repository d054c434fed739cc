"""Real processes over TLS with keys and data of their own: the numbers of the simulation, and nothing for strangers."""

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from simulations.certs import make_certs
from tests.bench import ROOT, Bench, running
from tests.pages import blocks
from tests.test_cli import PROGRAM, fedshield
from tests.test_federation import figures, run, same, weights


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running(tmp_path_factory.mktemp("bench"), 3) as found:
        yield found


def submit(bench: Bench, **settings: object) -> tuple[int, str, str]:
    """Run the app as a user would; return exit status, output and complaint."""
    changes = [f"--set={key}={value}" for key, value in bench.run_config(**settings).items()]
    authority = str(bench.folder / "certs" / "ca.crt")
    done = fedshield("submit", "--superlink", bench.address, "--ca", authority, *changes)
    return done.returncode, done.stdout, done.stderr


@contextlib.contextmanager
def watching_command_lines() -> Iterator[set[str]]:
    """Note every command line on this machine, as each of its users may."""
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def test_a_federation_over_tls_gives_the_numbers_of_the_simulation(bench: Bench, tmp_path: Path) -> None:
    with watching_command_lines() as seen:
        status, told, complaint = submit(bench)
    assert status == 0, complaint + told
    # Who knows a message's token can take the message, and answer it.
    ports = tuple(f"127.0.0.1:{port} " for port in bench.client_ports)
    assert any("flower-superexec" in line and any(port in line for port in ports) for line in seen)
    assert [line for line in seen if "--token" in line and any(port in line for port in ports)] == []
    lines = told.splitlines()
    assert lines[0].startswith("Run ")
    assert [line.split()[1] for line in lines if line.startswith("round ")] == ["1/2", "2/2"]
    assert f"Run directory: {bench.folder}/runs/run" in lines
    assert (
        len([line for line in lines if re.fullmatch(r"clients  0: \d+\.\d s  1: \d+\.\d s  2: \d+\.\d s", line)]) == 2
    )
    reference = run(tmp_path, "simulated", federation__clients=3, partition__scheme="iid")
    found = bench.folder / "runs" / "run"
    assert same(weights(found), weights(reference))
    assert figures(found) == figures(reference)


@pytest.mark.slow
def test_a_network_and_a_loss_of_the_users_own_reach_the_clients(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = tmp_path / "app"
    app.mkdir()
    for part in ("client", "common", "server", "simulations", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, app / part)
    (code,) = (block for block in blocks("own.md") if block.startswith("import "))
    (app / "own.py").write_text(code)
    own = {"model.name": "own.py:network", "loss.name": "own.py:logit_pairing"}
    assert bench.finish(bench.submit(app, **own, **{"results.name": "own"})) == "finished:completed", bench.logs()
    monkeypatch.chdir(app)
    changes = {"model__name": own["model.name"], "loss__name": own["loss.name"]}
    reference = run(tmp_path, "simulated", federation__clients=3, partition__scheme="iid", **changes)
    found = bench.folder / "runs" / "own"
    assert same(weights(found), weights(reference))
    assert figures(found) == figures(reference)


@pytest.mark.slow
def test_one_that_stops_following_leaves_nothing_and_the_run_goes_on(bench: Bench, tmp_path: Path) -> None:
    changes = [f"--set={key}={value}" for key, value in bench.run_config(**{"results.name": "alone"}).items()]
    command = [
        PROGRAM,
        "submit",
        "--superlink",
        bench.address,
        "--ca",
        str(bench.folder / "certs" / "ca.crt"),
        *changes,
    ]
    following = subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert following.stdout
    (number,) = re.findall(r"^Run (\d+) at ", following.stdout.readline())
    bench.until(lambda: bool(psutil.Process(following.pid).children()), 60, every=0.1)
    children = psutil.Process(following.pid).children(recursive=True)
    following.terminate()
    told, complaint = following.communicate(timeout=60)
    assert following.returncode == 130, told + complaint
    assert told.splitlines()[-1] == f"Run {number} goes on at {bench.address}; flwr stop {number} ends it there"
    assert complaint == "fedshield: interrupted\n"
    assert not any(child.is_running() for child in children)
    assert not list(tmp_path.iterdir())
    assert bench.finish(number) == "finished:completed"


def test_strangers_are_refused(bench: Bench, tmp_path: Path) -> None:
    bench.stop("client-2")
    # A key that nobody has registered, and a CA that has not signed the server's certificate.
    make_certs(tmp_path, 3, ["localhost"])
    own = bench.folder / "certs" / "client-2" / "client.key"
    kept = own.read_bytes()
    own.write_bytes((tmp_path / "client-2" / "client.key").read_bytes())
    bench.start_client(2)
    bench.until(lambda: bench.processes["client-2"].poll() not in (None, 0), 60)
    own.write_bytes(kept)
    bench.start_client(2, authority=tmp_path / "ca.crt", retries=1)
    bench.until(lambda: bench.processes["client-2"].poll() not in (None, 0), 60)


@pytest.mark.slow
def test_too_few_clients_end_the_run_with_one_line(bench: Bench) -> None:
    bench.stop("client-2")
    # Flower lists a node that has died for a minute.
    settings = {"results.name": "few", "federation.node-wait-seconds": 2, "federation.client-timeout-seconds": 90}
    status, told, complaint = submit(bench, **settings)
    assert status == 1
    assert complaint.endswith("finished:failed; the reason is in the log above\n")
    assert re.search("start a SuperNode for each client|client 2 of 3 is missing: ", told)
    assert "Traceback" not in told
    assert not (bench.folder / "runs" / "few").exists()
