"""Fixtures: a small run configuration and a cache of decoded data that is the tests' own."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.config.flat import Flat, default_config
from common.config.schema import RunConfig, parse_config
from common.factory import prepare_torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by a shell, in the background: tests interrupt what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY: Flat = {
    "threads": 1,
    "data.max-examples": 200,
    "federation.rounds": 2,
    "model.width": 2,
    "attack.steps": 1,
    "train.batch-size": 16,
    "evaluate.examples": 40,
    "evaluate.attacks": "fgsm,pgd-2",
    "evaluate.final-examples": 40,
    "evaluate.final-attacks": "pgd-3",
}


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the tests' own; child processes inherit it."""
    import flwr.app  # noqa: F401  # which sets the level of its logger

    logging.getLogger("flwr").setLevel(logging.WARNING)  # a failing test should show its own reason
    folder = tmp_path_factory.mktemp("cache")
    os.environ["FEDSHIELD_CACHE"] = str(folder)
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))  # whose code has run here
    return folder


@pytest.fixture
def speaking() -> None:
    """Message needs to know who speaks; making a LocalGrid tells it."""
    from simulations.engine.executor import InProcess
    from simulations.engine.local_grid import LocalGrid

    LocalGrid(tiny_config(), InProcess())


@pytest.fixture(autouse=True)
def command_line() -> Iterator[None]:
    """Take back what the command line does to its process: the handlers of its log, of Ctrl-C and of a polite kill."""
    log = logging.getLogger("fedshield")
    before = log.handlers, log.level, log.propagate
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    log.handlers, log.level, log.propagate = before
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For thousands of small operations: threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Threshold(nn.Module):
    """Class 1 when the first pixel is above 128/255, whose distance to it is the robust radius."""

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, pixels: Tensor) -> Tensor:
        margin = self.scale * (pixels[:, 0, 0, 0] - 128 / 255)
        return torch.stack([-margin, margin], 1)


def tiny_flat(**changes: object) -> Flat:
    """Defaults, made tiny; keyword `federation__rounds=3` sets `federation.rounds`."""
    flat = {**default_config(), **TINY}
    for key, value in changes.items():
        flat[key.replace("__", ".").replace("_", "-")] = value  # type: ignore[assignment]
    return flat


def tiny_config(**changes: object) -> RunConfig:
    return parse_config(tiny_flat(**changes))


def until(holds: Callable[[], bool], timeout: float = 120, every: float = 0.02, told: Callable[[], str] = str) -> None:
    """Wait until something holds; fail, with what is ``told``, when it does not in so many seconds."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(every)


def lives(process: int) -> bool:
    """Tell whether a process runs; one that has ended may stay in the table until its parent asks."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Real processes come last: what is wrong in a unit should show within the first minute.
SLOW = ("test_federation", "test_centralized", "test_cli", "test_sweep", "test_engines", "test_flower")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else -1)


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the CPU, and a GPU where there is one, prepared as a run prepares them."""
    prepare_torch(1)
    return torch.device(request.param)
