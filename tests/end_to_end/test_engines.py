"""The Ray engine: the same numbers with any number of workers; a worker or a machine that dies costs only time."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.app.metadata import Metadata

from common.errors import FedShieldError
from common.factory import prepare_data
from server.app import run_federation
from server.run_directory.reader import read_metrics
from simulations.engine.executor import Outcome
from simulations.engine.local_grid import LocalGrid, Reply
from simulations.engine.ray_cluster import default_workers, gpu_share
from simulations.engine.ray_executor import RayActors, Worker
from tests.helpers.runs import figures, run, run_with, same, weights
from tests.helpers.settings import DIVERGES, PRIVATE, tiny_config


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("reference"), "inprocess", federation__rounds=2)


def run_on(executor: RayActors, folder: Path, on_reply: Any = None, **changes: object) -> Path:
    """Run two rounds on an executor, and close it."""
    config = tiny_config(results__dir=str(folder), results__name="ray", federation__rounds=2, **changes)
    try:
        return run_federation(LocalGrid(config, executor, on_reply), config)
    finally:
        executor.close()


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ray_gives_the_numbers_of_the_inprocess_engine(tmp_path: Path, reference: Path, workers: int) -> None:
    path = run_on(RayActors(tiny_config(), workers), tmp_path)
    assert same(weights(path), weights(reference))
    assert figures(path) == figures(reference)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{**DIVERGES, "federation__rounds": 5}, PRIVATE], ids=["repair", "privacy"])
def test_ray_repairs_and_adds_noise_with_the_same_bits(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = run_with(RayActors, tmp_path, "ray", **changes)
    here = run(tmp_path, "here", **changes)
    assert same(weights(path), weights(here))
    assert figures(path) == figures(here)
    assert any(line.get("privacy") or line.get("repairs") for line in read_metrics(path))


@pytest.mark.parametrize(
    ("workers", "gpus", "share"), [(4, 0, 0), (1, 1, 1), (3, 1, 1 / 3), (3, 2, 1 / 2), (2, 3, 1), (8, 2, 1 / 4)]
)
def test_workers_share_gpus_so_that_all_of_them_fit(workers: int, gpus: int, share: float) -> None:
    assert gpu_share(workers, gpus) == share
    if gpus:
        assert share <= 1
        assert gpus * int(1 / share + 1e-9) >= workers  # what each GPU holds, whole workers only


def test_the_number_of_workers_comes_from_the_hardware() -> None:
    assert default_workers(gpus=4, cpus=64, nodes=1, threads=2) == 4
    assert default_workers(gpus=0, cpus=8, nodes=1, threads=0) == 1  # each client uses all the cores
    assert default_workers(gpus=0, cpus=8, nodes=2, threads=0) == 2
    assert default_workers(gpus=0, cpus=8, nodes=1, threads=3) == 2
    assert default_workers(gpus=0, cpus=2, nodes=1, threads=4) == 1


class Telling(Worker):
    """A worker that tells which GPUs Ray gave it."""

    def gpus(self) -> list[int]:
        import ray

        return ray.get_gpu_ids()


class TellingActors(RayActors):
    worker = Telling


def test_clients_are_spread_over_gpus_longest_shard_first() -> None:
    config = tiny_config(partition__scheme="dirichlet")
    # Ray takes our word for the GPUs: where there are none, the workers compute on the CPU.
    executor = TellingActors(config, workers=2, gpus=2)
    try:
        import ray

        actors = list(executor._starting.values())
        assert sorted(gpu for actor in actors for gpu in ray.get(actor.gpus.remote())) == [0, 1]
        grid = LocalGrid(config, executor)
        replies = grid.send_and_receive(
            [Message(RecordDict(), node, MessageType.QUERY) for node in grid.get_node_ids()]
        )
        answered = [int(str(reply.content["metrics"]["partition-id"])) for reply in replies]
    finally:
        executor.close()
    sizes = [len(shard) for shard in prepare_data(config)[1].shards]
    assert sorted(answered) == list(range(10))
    assert sizes[answered[0]] in sorted(sizes)[-2:]  # two started at once


def ray_workers() -> list[int]:
    """Process ids of this process's Ray actors."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(b"ray::Worker"):
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


def alive(process: int) -> bool:
    """Return whether a process runs or is stopped; one that has ended may still wait for its parent to notice."""
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Signals:
    """Sends a signal to all the workers, once, after five replies of the first round: they are warm by then."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.hit: list[int] = []

    def __call__(self, reply: Reply) -> None:
        if reply.server_round and reply.answered == 5 and not self.hit:
            self.hit = ray_workers()
            for process in self.hit:
                os.kill(process, self.number)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_client_runs_again(tmp_path: Path, reference: Path) -> None:
    kill = Signals(signal.SIGKILL)
    path = run_on(RayActors(tiny_config(), 2), tmp_path, kill)
    assert len(kill.hit) == 2
    first, second = read_metrics(path)
    assert first["refused"] == second["refused"] == second["retried"] == {}
    assert 1 <= len(first["retried"]) <= 2  # one may have been between two clients
    assert all(reason.startswith("its worker died (") for reason in first["retried"].values())
    assert same(weights(path), weights(reference))
    assert figures(path) == figures(reference)


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    stop = Signals(signal.SIGSTOP)
    changes = {"federation__min_fraction": 0.8, "federation__client_timeout_seconds": 45}
    path = run_on(RayActors(tiny_config(), 2), tmp_path, stop, **changes)
    assert len(stop.hit) == 2
    first, second = read_metrics(path)
    assert second["refused"] == {}
    assert 1 <= len(first["refused"]) <= 2
    assert set(first["refused"].values()) == {"no reply within federation.client-timeout-seconds = 45"}
    assert not any(alive(process) for process in stop.hit)


class Deadly(Worker):
    """A worker that client 3 takes down with it in the first round."""

    def run(self, content: RecordDict, metadata: Metadata, context: Context, supply: Any) -> Outcome:
        order = content.config_records.get("config", {})
        if context.node_config["partition-id"] == 3 and order.get("server-round") == 1:
            os._exit(1)
        return super().run(content, metadata, context, supply)


class DeadlyActors(RayActors):
    worker = Deadly


@pytest.mark.slow
def test_a_client_whose_worker_dies_twice_is_left_out(tmp_path: Path) -> None:
    path = run_on(DeadlyActors(tiny_config(), 2), tmp_path, federation__min_fraction=0.9)
    first, second = read_metrics(path)
    assert set(first["refused"]) == {"3"}
    assert first["refused"]["3"].startswith("its worker died (ActorDiedError: ")
    assert first["refused"]["3"].endswith("), and again when it ran once more")
    assert first["retried"] == second["refused"] == {}
    assert len(first["clients"]) == 9


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """A Ray cluster of two nodes, real processes on this machine; the second has a cache of its own, still empty."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = found.add_node(num_cpus=1, env_vars={"FEDSHIELD_CACHE": str(tmp_path / "far")})
    yield found, second
    found.shutdown()


@pytest.mark.slow
def test_a_cluster_fetches_the_data_and_survives_the_death_of_a_node(
    tmp_path: Path, reference: Path, cluster: tuple[Any, Any]
) -> None:
    machines, second = cluster

    def lose(reply: Reply) -> None:
        if reply.server_round == 1 and reply.answered == 4 and second in machines.worker_nodes:
            machines.remove_node(second, allow_graceful=False)

    executor = RayActors(tiny_config(), address=machines.address)
    assert executor.workers == 2
    path = run_on(executor, tmp_path, lose)
    assert second not in machines.worker_nodes
    assert list((tmp_path / "far" / "datasets").glob("shapes10-*/train-images.npy"))
    assert [line["refused"] for line in read_metrics(path)] == [{}, {}]
    assert len(read_metrics(path)[0]["retried"]) <= 1
    assert same(weights(path), weights(reference))


def test_a_machine_of_its_own_is_started_whatever_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    executor = RayActors(tiny_config(), 1)
    try:
        assert len(executor._starting) == 1
    finally:
        executor.close()


def test_an_address_without_a_cluster_is_named() -> None:
    with pytest.raises(FedShieldError, match=r"^--ray-address 127\.0\.0\.1:1: could not join a Ray cluster there"):
        RayActors(tiny_config(), address="127.0.0.1:1")
