"""The Ray engine: the same numbers with any number of workers, and a dead worker costs one client's turn."""

import os
import signal
from pathlib import Path

import pytest

from server.app import run_federation
from server.rundir import read_metrics
from simulations.executors import RayActors, gpu_share
from simulations.grid import LocalGrid
from tests.conftest import tiny_config
from tests.test_federation import figures, run, same, weights


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("reference"), "inprocess")


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_gives_the_numbers_of_the_inprocess_engine(tmp_path: Path, reference: Path, workers: int) -> None:
    executor = RayActors(workers)
    try:
        path = run(tmp_path, "ray", executor)  # type: ignore[arg-type]
    finally:
        executor.close()
    assert same(weights(path), weights(reference))
    assert figures(path) == figures(reference)


@pytest.mark.parametrize(
    ("workers", "gpus", "share"), [(4, 0, 0), (1, 1, 1), (3, 1, 1 / 3), (3, 2, 1 / 2), (2, 3, 1), (8, 2, 1 / 4)]
)
def test_workers_share_gpus_so_that_all_of_them_fit(workers: int, gpus: int, share: float) -> None:
    assert gpu_share(workers, gpus) == share
    if gpus:
        assert share <= 1
        assert gpus * int(1 / share + 1e-9) >= workers  # what each GPU holds, whole workers only


def ray_workers() -> list[int]:
    """Process ids of this process's Ray actors."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(b"ray::_Worker"):
                parents = {entry.name}
                parent = entry.name
                while parent not in ("0", "1"):
                    parent = (Path("/proc") / parent / "stat").read_text().rsplit(")", 1)[1].split()[1]
                    parents.add(parent)
                if str(os.getpid()) in parents:
                    found.append(int(entry.name))
        except OSError:  # it ended while we looked
            continue
    return found


def test_a_worker_that_is_killed_is_replaced_and_its_client_named(tmp_path: Path) -> None:
    config = tiny_config(
        results__dir=str(tmp_path), results__name="run", federation__rounds=3, federation__min_fraction=0.5
    )
    killed: list[int] = []

    def kill(message_type: str, server_round: int, answered: int, sent: int) -> None:
        if server_round == 1 and answered == 4 and not killed:
            killed.extend(ray_workers())
            for process in killed:
                os.kill(process, signal.SIGKILL)

    executor = RayActors(2)
    try:
        path = run_federation(LocalGrid(config, executor, kill), config)
    finally:
        executor.close()
    assert len(killed) == 2
    first, *later = read_metrics(path)
    assert 1 <= len(first["refused"]) <= 2
    assert all("its worker died" in reason for reason in first["refused"].values())
    assert all(line["refused"] == {} for line in later)


def test_a_worker_that_hangs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    config = tiny_config(
        results__dir=str(tmp_path),
        results__name="run",
        federation__rounds=3,
        federation__min_fraction=0.4,
        federation__client_timeout_seconds=45,
    )
    stopped: list[int] = []

    def stop(message_type: str, server_round: int, answered: int, sent: int) -> None:
        if server_round == 2 and answered == 5 and not stopped:  # the workers are warm by then
            stopped.extend(ray_workers())
            for process in stopped:
                os.kill(process, signal.SIGSTOP)

    executor = RayActors(2)
    try:
        path = run_federation(LocalGrid(config, executor, stop), config)
    finally:
        executor.close()
    first, second, third = read_metrics(path)
    assert first["refused"] == third["refused"] == {}
    assert 4 <= len(second["refused"]) <= 5
    late = "no reply within federation.client-timeout-seconds = 45"
    assert set(second["refused"].values()) == {late}
