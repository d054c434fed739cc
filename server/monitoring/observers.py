"""Who is told about a run while it runs: Prometheus and experiment trackers, behind one interface."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.paths import to_install
from server.monitoring.prometheus import Exporter
from server.monitoring.trackers import MlflowTracker, TensorBoardTracker, WandbTracker
from server.run_directory.writer import RunDir

log = logging.getLogger("fedshield")


class Watcher(Protocol):
    """Watches one run."""

    def after_round(self, record: Mapping[str, Any]) -> None:
        """Take a round's line of ``metrics.jsonl``."""

    def after_run(self, summary: Mapping[str, Any]) -> None:
        """Take ``summary.json``."""

    def close(self, finished: bool) -> None:
        """Note that the run has ended; ``finished``: whether it came to its end."""


TRACKERS: Mapping[str, Callable[[RunConfig, RunDir], Watcher]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
}


class Watchers:
    """All watchers of a run; one that fails is left out from then on, since it must not end the run."""

    def __init__(self) -> None:
        self._all: dict[str, Watcher] = {}

    def add(self, name: str, watcher: Watcher) -> None:
        """Add a watcher."""
        self._all[name] = watcher

    def after_round(self, record: Mapping[str, Any]) -> None:
        """Pass on a round's line of ``metrics.jsonl``."""
        self._tell(lambda watcher: watcher.after_round(record))

    def after_run(self, summary: Mapping[str, Any]) -> None:
        """Pass on ``summary.json``."""
        self._tell(lambda watcher: watcher.after_run(summary))

    def close(self, finished: bool) -> None:
        """End all watchers."""
        self._tell(lambda watcher: watcher.close(finished))

    def _tell(self, how: Callable[[Watcher], None]) -> None:
        for name, watcher in list(self._all.items()):
            try:
                how(watcher)
            except Exception as error:
                told = (str(error).strip() or type(error).__name__).split("\n")[0]
                log.warning("%s: %s; the run continues without it", name, told)
                del self._all[name]


@contextmanager
def watching(config: RunConfig, run: RunDir) -> Iterator[Watchers]:
    """Start what ``results.prometheus-port`` and ``results.trackers`` ask for, and end it with the block.

    Raises:
        FedShieldError: one of them is not installed, or cannot be reached now.
    """
    watchers, finished = Watchers(), False
    try:
        if port := config.results.prometheus_port:
            watchers.add("prometheus", Exporter(port, config.results.prometheus_host))
        for name in config.results.trackers:
            watchers.add(name, _start(name, config, run))
        yield watchers
        finished = True
    finally:
        watchers.close(finished)


def _start(name: str, config: RunConfig, run: RunDir) -> Watcher:
    try:
        return TRACKERS[name](config, run)
    except FedShieldError:
        raise
    except ImportError as error:
        raise FedShieldError(
            f"results.trackers = {name}: needs {error.name or name}; run: {to_install(name)}, or leave it out"
        ) from error
    except Exception as error:
        told = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise FedShieldError(f"results.trackers = {name}: {told}; fix that, or leave it out") from error
