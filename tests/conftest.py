"""Fixtures: a small run configuration and a cache of decoded data that is the tests' own."""

import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from common.factory import prepare_torch
from tests.helpers.program import undone
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


@pytest.fixture(scope="session", autouse=True)
def shared_cores() -> None:
    """Let two workers share two cores: one thread each, and Flower's many collections pass over what is imported."""
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


@pytest.fixture
def speaking() -> None:
    """Message needs to know who speaks; making a LocalGrid tells it."""
    from simulations.engine.executor import InProcess
    from simulations.engine.local_grid import LocalGrid

    LocalGrid(tiny_config(), InProcess())


@pytest.fixture(autouse=True)
def command_line() -> Iterator[None]:
    with undone():
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For thousands of small operations: threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The longest of those with real processes, so that no worker is left with one of them at the end.
LONG = (
    "test_sweep",
    "test_cli",
    "test_restarts",
    "test_deployment",
    "test_engines",
    "test_centralized",
    "test_processes",
    "test_flower",
    "test_ray_access",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put real processes last: what is wrong in a unit should show within the first minute."""

    def order(item: pytest.Item) -> int:
        name = item.path.stem
        return 0 if item.path.parent.name != "end_to_end" else LONG.index(name) + 1 if name in LONG else len(LONG) + 1

    items.sort(key=order)


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the CPU, and a GPU where there is one, prepared as a run prepares them."""
    prepare_torch(1)
    return torch.device(request.param)
