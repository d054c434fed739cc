"""Fixtures: a small run configuration and a cache of decoded data that is the tests' own."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from common.factory import prepare_torch
from tests.helpers.settings import tiny_config

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by a shell, in the background: tests interrupt what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
    before = [*log.handlers], log.level, log.propagate  # a copy: handlers are added in place
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


# Real processes come last: what is wrong in a unit should show within the first minute.
SLOW = (
    "test_federation",
    "test_centralized",
    "test_cli",
    "test_sweep",
    "test_engines",
    "test_processes",
    "test_flower",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else -1)


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the CPU, and a GPU where there is one, prepared as a run prepares them."""
    prepare_torch(1)
    return torch.device(request.param)
