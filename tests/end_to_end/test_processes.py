"""Clients in processes: the same numbers with any number of workers; a worker that dies or hangs costs only time."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from flwr.app import Context, Message, MessageType, RecordDict

from common.errors import FedShieldError
from common.machine import available_cores
from server.app import run_federation
from server.run_directory.reader import read_metrics
from simulations.engine.byzantine import ByzantineExecutor
from simulations.engine.executor import InProcess, Outcome
from simulations.engine.local_grid import LocalGrid, Reply
from simulations.engine.parcels import pack, receive, send
from simulations.engine.process_executor import Processes
from simulations.federation import fitting_engine
from tests.helpers.program import PROGRAM, fedshield, tiny_options
from tests.helpers.runs import figures, run, same, weights
from tests.helpers.settings import lives, tiny_config, until

ONCE = "TEST_PROCESSES_ONCE"  # variable of the environment: a file that shows that client 3 has died


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("reference"), "inprocess")


def processes(folder: Path, on_reply: Callable[[Reply], None] | None = None, **changes: object) -> Path:
    """Run two rounds with two workers."""
    return run_on(Processes(tiny_config(), 2), folder, on_reply, **changes)


def run_on(
    executor: Processes | InProcess, folder: Path, on_reply: Callable[[Reply], None] | None = None, **changes: object
) -> Path:
    config = tiny_config(results__dir=str(folder), results__name="processes", **changes)
    try:
        return run_federation(LocalGrid(config, executor, on_reply), config)
    finally:
        executor.close()


def forking(parent: int | None = None) -> list[psutil.Process]:
    """Return the processes that a run has started to fork its workers: they have sessions of their own."""
    found = []
    for process in psutil.Process(parent).children():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            if os.getsid(process.pid) == process.pid:
                found.append(process)
    return found


def workers(parent: int | None = None) -> list[psutil.Process]:
    return [worker for process in forking(parent) for worker in process.children()]


@pytest.mark.parametrize("count", [1, 3])
def test_processes_give_the_numbers_of_the_inprocess_engine(tmp_path: Path, reference: Path, count: int) -> None:
    path = run_on(Processes(tiny_config(), count), tmp_path)
    assert same(weights(path), weights(reference))
    assert figures(path) == figures(reference)
    assert forking() == []


def test_a_command_forks_its_workers_before_it_computes(tmp_path: Path, reference: Path) -> None:
    options = ["--engine", "processes", "--workers", "2", "--results", str(tmp_path), "--name", "forked"]
    ended = fedshield("run", *tiny_options(), *options)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert same(weights(tmp_path / "forked"), weights(reference))
    assert figures(tmp_path / "forked") == figures(reference)


def test_liars_lie_in_processes_as_in_one(tmp_path: Path) -> None:
    config = tiny_config(federation__rounds=1, byzantine__clients=2, results__dir=str(tmp_path))
    found = []
    for executor in (InProcess(), Processes(config, 2)):
        try:
            found.append(weights(run_federation(LocalGrid(config, ByzantineExecutor(executor, config)), config)))
        finally:
            executor.close()
    assert same(*found)


class Signals:
    """Sends a signal to processes of this run, once, after five replies of the first round."""

    def __init__(self, number: int, whom: Callable[[], list[psutil.Process]] = workers) -> None:
        self.number = number
        self.whom = whom
        self.hit: list[int] = []

    def __call__(self, reply: Reply) -> None:
        if reply.server_round and reply.answered == 5 and not self.hit:
            self.hit = [process.pid for process in self.whom()]
            for process in self.hit:
                os.kill(process, self.number)


DIED = "its worker died (exit status 1: code of a network, loss or attack may have ended it)"


class Deadly(Processes):
    worker = __name__


def test_a_worker_that_is_killed_is_replaced_and_its_client_runs_again(
    tmp_path: Path, reference: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ONCE, str(tmp_path / "once"))
    path = run_on(Deadly(tiny_config(), 2), tmp_path)
    first, second = read_metrics(path)
    assert first["refused"] == second["refused"] == second["retried"] == {}
    assert first["retried"] == {"3": DIED}
    assert f"client 3 ran again: {DIED}" in caplog.text
    assert same(weights(path), weights(reference))
    assert figures(path) == figures(reference)


def test_all_processes_may_be_killed(tmp_path: Path, reference: Path) -> None:
    kill = Signals(signal.SIGKILL, lambda: [*forking(), *workers()])
    path = processes(tmp_path, kill)
    assert len(kill.hit) == 3
    assert read_metrics(path)[0]["refused"] == {}
    assert same(weights(path), weights(reference))


def test_a_worker_that_hangs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    stop = Signals(signal.SIGSTOP)
    path = processes(tmp_path, stop, federation__min_fraction=0.8, federation__client_timeout_seconds=30)
    assert len(stop.hit) == 2
    first, second = read_metrics(path)
    assert second["refused"] == {}
    assert set(first["refused"].values()) == {"no reply within federation.client-timeout-seconds = 30"}
    assert len(first["refused"]) == 2
    assert not any(lives(process) for process in stop.hit)


def test_a_client_whose_worker_dies_twice_is_left_out(tmp_path: Path) -> None:
    path = run_on(Deadly(tiny_config(), 2), tmp_path, federation__min_fraction=0.9)
    first, second = read_metrics(path)
    assert first["refused"] == {"3": f"{DIED}, and again when it ran once more"}
    assert first["retried"] == second["refused"] == {}
    assert len(first["clients"]) == 9


LATE = """def loss(model, context):
    return lambda images, labels: model(images).sum() if len(images) == 2 else fail()  # on two it is tried first

def fail():
    """


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGKILL, "SIGKILL: most often because memory"), (signal.SIGSEGV, "SIGSEGV: native code has crashed")],
)
def test_a_signal_that_ends_a_worker_is_named(tmp_path: Path, number: signal.Signals, told: str) -> None:
    code = tmp_path / "own.py"
    code.write_text(f"import os\n\n{LATE}os.kill(os.getpid(), {number.value})\n")
    with pytest.raises(FedShieldError, match=rf"its worker died \({told}.*, and again when it ran once more"):
        run_on(Processes(tiny_config(), 2), tmp_path, loss__name=f"{code}:loss")


class Broken(Processes):
    worker = "no_such_module"


def test_workers_that_do_not_start_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match="no worker is left, and none could be started"):
        run_on(Broken(tiny_config(), 2), tmp_path, federation__node_wait_seconds=1)


def test_a_clients_mistake_gives_its_line_on_both_engines(tmp_path: Path) -> None:
    code = tmp_path / "own.py"
    code.write_text(f"{LATE}raise ValueError('no such luck')\n")
    told = []
    for executor in (InProcess(), Processes(tiny_config(), 2)):
        with pytest.raises(FedShieldError, match="ValueError: no such luck") as error:
            run_on(executor, tmp_path / type(executor).__name__, loss__name=f"{code}:loss")
        told.append(str(error.value))
    assert told[0] == told[1]


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in whose first round two clients train for hours."""
    options = tiny_options(attack__steps=10**6)
    process = subprocess.Popen(
        [PROGRAM, "run", "--engine", "processes", "--workers", "2", *options, "--results", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until(lambda: sum(worker.cpu_times().user > 2 for worker in workers(process.pid)) == 2, 240)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_no_worker_outlives_its_run(endless: subprocess.Popen[str], number: int, status: int) -> None:
    started = [process.pid for process in (*forking(endless.pid), *workers(endless.pid))]
    assert len(started) == 3
    # Forked, all of them: a process that is spawned would import torch once more.
    command = psutil.Process(endless.pid).cmdline()
    assert [psutil.Process(process).cmdline() for process in started] == [command] * 3
    if number == signal.SIGINT:  # as a terminal sends it: to all
        os.killpg(endless.pid, number)
    else:
        endless.send_signal(number)
    _, errors = endless.communicate(timeout=120)
    assert endless.returncode == status
    assert "Traceback" not in errors
    until(lambda: not any(lives(process) for process in started))


def test_there_are_never_more_workers_than_clients_in_a_round() -> None:
    executor = Processes(tiny_config(federation__fraction=0.2), 8)
    executor.close()
    assert executor.workers == 2


def test_there_may_be_more_clients_than_files_may_be_open(tmp_path: Path) -> None:
    executor = Processes(config := tiny_config(federation__clients=40, partition__scheme="iid"), 2)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    grid = LocalGrid(config, executor)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, limits[1]))
        queries = [Message(RecordDict(), node, MessageType.QUERY) for node in grid.get_node_ids()]
        replies = list(grid.send_and_receive(queries))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        executor.close()
    assert sorted(reply.content["metrics"]["partition-id"] for reply in replies) == list(range(40))


def test_the_engine_comes_from_the_hardware_and_from_the_threads_of_a_client() -> None:
    several = "inprocess" if torch.cuda.is_available() else "processes"
    assert fitting_engine(tiny_config(threads=0), None, None) == "inprocess"
    assert fitting_engine(tiny_config(threads=available_cores()), None, None) == "inprocess"
    assert fitting_engine(tiny_config(threads=0), 2, None) == several
    assert fitting_engine(tiny_config(federation__fraction=0.1), 2, None) == "inprocess"
    if available_cores() > 1:
        assert fitting_engine(tiny_config(threads=1), None, None) == several


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_parcel_arrives_whole_and_its_arrays_can_be_read_in_place(
    in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_memory:  # as in a Python that was built for an older glibc
        monkeypatch.delattr(os, "memfd_create")
    near, far = socket.socketpair()
    arrays = {"odd": np.arange(3, dtype=np.uint8), "none": np.empty((0, 2)), "weights": np.linspace(0, 1, 35)}
    parcel = pack((arrays, 1))
    opened = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        send(near, parcel)
        found, one = receive(far)
        assert one == 1
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)
            assert not found[name].flags.writeable
            assert found[name].ctypes.data % array.itemsize == 0
    assert len(os.listdir("/proc/self/fd")) == opened
    os.close(parcel)
    near.close()
    with pytest.raises(EOFError):
        receive(far)
    far.close()


def main(descriptor: int) -> None:
    """Fork workers of which client 3 takes down its own in the first round: each time, or once."""
    from simulations.engine import process_worker
    from simulations.engine.executor import run_client

    def deadly(message: Message, context: Context) -> Outcome:
        order = message.content.config_records.get("config", {})
        if context.node_config["partition-id"] == 3 and order.get("server-round") == 1 and not _was_once():
            os._exit(1)
        return run_client(message, context)

    vars(process_worker)["run_client"] = deadly
    process_worker.main(descriptor)


def _was_once() -> bool:
    """Tell whether the client is to die once only, and has."""
    if not (mark := os.environ.get(ONCE)):
        return False
    known = Path(mark).exists()
    Path(mark).touch()
    return known
