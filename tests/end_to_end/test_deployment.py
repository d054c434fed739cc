"""Real processes over TLS with keys and data of their own: the numbers of the simulation, and nothing for strangers."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.node_pb2 import NodeInfo

from common.errors import FedShieldError
from common.paths import ROOT
from server.run_directory.reader import read_metrics
from simulations.deployment.certificates import make_certs
from simulations.deployment.flower_control import Control
from simulations.deployment.register import register
from tests.helpers.bench import Bench, running
from tests.helpers.pages import own_file
from tests.helpers.program import PROGRAM, fedshield
from tests.helpers.runs import figures, run, same, weights


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
    with watching_command_lines() as seen:  # clients of this method keep something where they are
        status, told, complaint = submit(bench, **{"method.name": "scaffold"})
    assert status == 0, complaint + told
    # Who knows a message's token can take the message, and answer it.
    ports = tuple(f"127.0.0.1:{port} " for port in bench.client_ports)
    assert any("flower-superexec" in line and any(port in line for port in ports) for line in seen)
    assert [line for line in seen if "--token" in line and any(port in line for port in ports)] == []
    lines = told.splitlines()
    assert lines[0].startswith("Run ")
    assert [line.split()[1] for line in lines if re.match(r"round \d+/", line)] == ["1/2", "2/2"]
    assert f"Run directory: {bench.folder}/runs/run" in lines
    assert (
        len([line for line in lines if re.fullmatch(r"clients  0: \d+\.\d s  1: \d+\.\d s  2: \d+\.\d s", line)]) == 2
    )
    reference = run(tmp_path, "simulated", federation__clients=3, partition__scheme="iid", method__name="scaffold")
    found = bench.folder / "runs" / "run"
    assert same(weights(found), weights(reference))
    assert figures(found) == figures(reference)


@pytest.mark.slow
def test_a_network_and_a_loss_of_the_users_own_reach_the_clients(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = tmp_path / "app"
    app.mkdir()
    for part in ("client", "common", "fedshield", "server", "simulations", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, app / part)
    (app / "own.py").write_text(own_file("own.py"))
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
    told, complaint = following.communicate(timeout=300)
    assert following.returncode == 130, told + complaint
    assert told.splitlines()[-1] == f"Run {number} continues at {bench.address}; flwr stop {number} ends it there"
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


def let_in(bench: Bench, folder: Path) -> list[Path]:
    return register(Control(bench.address, bench.folder / "certs" / "ca.crt"), folder, 60)


def nodes(bench: Bench) -> list[NodeInfo]:
    with bench.control.client() as client:
        return list(client.ListNodes(ListNodesRequest()).nodes_info)


def known(bench: Bench) -> list[tuple[int, str, str]]:
    """Return what registering could change; a heartbeat moves the times of a node at any moment."""
    return [(node.node_id, node.name, node.public_key) for node in nodes(bench)]


def refused(bench: Bench, folder: Path) -> str:
    """Return the one line that says why, when no key was let in."""
    before = known(bench)
    with pytest.raises(FedShieldError) as caught:
        let_in(bench, folder)
    assert known(bench) == before
    return str(caught.value)


def new_key(folder: Path, client: int) -> Path:
    """Return a folder with a key that nobody knows, under a client's number."""
    make_certs(folder, 1, ["localhost"])
    return (folder / "operator" / "clients" / "0.pub").rename(folder / "operator" / "clients" / f"{client}.pub")


def test_each_key_has_its_clients_name_and_is_left_as_it_is_the_next_time(bench: Bench) -> None:
    own = bench.folder / "certs" / "operator" / "clients"
    before = known(bench)
    assert {"client-0", "client-1", "client-2"} <= {name for _, name, _ in before}
    assert let_in(bench, own) == [own / f"{client}.pub" for client in range(3)]
    assert known(bench) == before


def test_the_new_key_of_a_client_is_let_in_when_the_old_one_has_gone(bench: Bench, tmp_path: Path) -> None:
    old, new = new_key(tmp_path / "old", 5), new_key(tmp_path / "new", 5)
    assert let_in(bench, old.parent) == [old]
    (node,) = (node.node_id for node in nodes(bench) if node.name == "client-5")
    assert refused(bench, new.parent) == (
        f"{new}: another key is registered as client-5, that of node {node}; if this one takes its place, unregister "
        "that node with flwr supernode unregister"
    )
    assert "unregistered successfully" in bench.control._call("supernode", "unregister", str(node), "it")
    assert let_in(bench, new.parent) == [new]
    assert refused(bench, old.parent) == (
        f"{old}: was unregistered, and Flower never takes such a key again; for a new key, delete {old} and run "
        "fedshield certs again"
    )


@pytest.mark.parametrize(
    ("client", "options", "how"), [(7, [], "without a name"), (8, ["--name", "hospital"], "as 'hospital'")]
)
def test_a_key_that_is_registered_otherwise_is_told(
    bench: Bench, tmp_path: Path, client: int, options: list[str], how: str
) -> None:
    path = new_key(tmp_path, client)
    assert "registered successfully" in bench.control._call("supernode", "register", str(path), "it", *options)
    node = nodes(bench)[-1].node_id
    assert refused(bench, path.parent) == (
        f"{path}: is registered {how}, not as client-{client}, and Flower cannot change that; unregister node {node} "
        f"with flwr supernode unregister, and for a new key, delete {path} and run fedshield certs again"
    )


@pytest.mark.slow
def test_a_client_that_comes_first_cannot_take_the_number_of_another(tmp_path: Path) -> None:
    settings = {"federation.min-fraction": 0.5, "federation.node-wait-seconds": 300, "federation.rounds": 1}
    with Bench(tmp_path, 2, settings) as bench:
        bench.start_superlink()
        let_in(bench, tmp_path / "certs" / "operator" / "clients")
        manifest = tmp_path / "data" / "client-1" / "split.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "client": 0}))
        bench.start_client(1, says=0)
        bench.start_server()
        bench.until(lambda: "Activated node" in (tmp_path / "superlink.log").read_text(), 120)
        started = bench.submit()
        bench.start_client(0)
        assert bench.finish(started) == "finished:completed", bench.logs()
        told = bench.control._call("log", started, "it", "--show")
        assert (
            "client 1: says that it is client 0; give its SuperNode partition-id=1; the run begins without it" in told
        )
        (line,) = read_metrics(tmp_path / "runs" / "run")
        assert list(line["clients"]) == ["0"]


@pytest.mark.slow
def test_too_few_clients_end_the_run_with_one_line(bench: Bench) -> None:
    bench.stop("client-2")
    # Flower lists a node that has died for a minute.
    settings = {"results.name": "few", "federation.node-wait-seconds": 2, "federation.client-timeout-seconds": 90}
    status, told, complaint = submit(bench, **settings)
    assert status == 1
    assert complaint.endswith("finished:failed; the reason is in the log above\n")
    assert re.search("start a SuperNode for each client|client 2: can no longer be reached", told)
    assert "Traceback" not in told
    assert not (bench.folder / "runs" / "few").exists()
