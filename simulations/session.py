"""One federation on this machine: engine, progress bar, figures."""

import logging
from pathlib import Path

from flwr.app import MessageType
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from common.config import RunConfig
from simulations.console import log_to
from simulations.executors import Executor, make_executor
from simulations.grid import LocalGrid, run_server


class ProgressBar:
    """How far a run is, and the time left; invisible where there is no terminal.

    Args:
        console: where the log goes too.
        unit: ``round`` or ``epoch``.
        total: how many of them.
        done: how many of them an earlier part of the run has finished.
        first: what happens until the first news.
    """

    def __init__(self, console: Console, unit: str, total: int, done: int, first: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._unit, self._total, self._done = unit, total, done
        self._task = self.progress.add_task(first, total=max(0, total - done))

    def show(self, number: int, share: float, detail: str) -> None:
        """Move on to where ``share``, in [0, 1], of a round is done."""
        self.progress.update(
            self._task,
            completed=number - 1 + share - self._done,
            description=f"{self._unit} {number}/{self._total}  {detail}",
        )


def finished(config: RunConfig) -> int:
    """Return how many rounds, or epochs, an earlier part of this run has finished."""
    if not config.results.resume:
        return 0
    from server.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(Path(config.results.resume).expanduser())
    return int(checkpoint["round"]) if checkpoint else 0


def run_locally(
    config: RunConfig, engine: str | None, workers: int | None, address: str | None, console: Console
) -> Path:
    """Run a federation with LocalGrid, draw its figures, and return its run directory."""
    log_to(console)
    config.check_division()  # before Ray starts
    # Flower tells at length what the progress bar and the round lines tell here.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    executor: Executor = make_executor(
        config, engine, workers, address
    )  # first: Ray's workers import what they need meanwhile
    try:
        if config.byzantine.clients:
            from simulations.liars import Conspiracy

            executor = Conspiracy(executor, config)
        from server.app import app

        bar = ProgressBar(console, "round", config.federation.rounds, finished(config), "clients load their data")

        def on_reply(message_type: str, server_round: int, answered: int, sent: int) -> None:
            if message_type == MessageType.TRAIN:
                bar.show(server_round, answered / sent, f"client {answered}/{sent}")

        with bar.progress:
            context = run_server(app, LocalGrid(config, executor, on_reply), config)
    finally:
        executor.close()
    path = Path(str(context.state.config_records["run"]["path"]))
    from simulations.plots import plot_run

    plot_run(path)
    return path
