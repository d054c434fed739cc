"""Real processes over TLS with keys and data of their own: the numbers of the simulation, and nothing for strangers."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.certs import make_certs
from tests.bench import Bench, running
from tests.test_cli import fedshield
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


def test_a_federation_over_tls_gives_the_numbers_of_the_simulation(bench: Bench, tmp_path: Path) -> None:
    status, told, complaint = submit(bench)
    assert status == 0, complaint + told
    lines = told.splitlines()
    assert lines[0].startswith("Run ")
    assert [line.split()[1] for line in lines if line.startswith("round ")] == ["1/2", "2/2"]
    assert f"Run directory: {bench.folder}/runs/run" in lines
    reference = run(tmp_path, "simulated", federation__clients=3, partition__scheme="iid")
    found = bench.folder / "runs" / "run"
    assert same(weights(found), weights(reference))
    assert figures(found) == figures(reference)


def test_strangers_are_refused_and_too_few_clients_end_the_run_with_one_line(bench: Bench, tmp_path: Path) -> None:
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
    # Flower lists a node that has died for a minute.
    settings = {"results.name": "few", "federation.node-wait-seconds": 2, "federation.client-timeout-seconds": 90}
    status, told, complaint = submit(bench, **settings)
    assert status == 1
    assert complaint.endswith("finished:failed; the reason is in the log above\n")
    assert re.search("start a SuperNode for each client|client 2 of 3 is missing: ", told)
    assert "Traceback" not in told
    assert not (bench.folder / "runs" / "few").exists()
