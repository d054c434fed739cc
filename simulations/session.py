"""One run on this machine: engine, progress bar, figures."""

import logging
from pathlib import Path

from flwr.app import MessageType
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from common.config import RunConfig
from simulations.console import log_to
from simulations.executors import make_executor
from simulations.grid import LocalGrid, run_server


class ProgressBar:
    """Round, clients that have answered and time left; invisible where there is no terminal.

    Args:
        config: of the run.
        console: where the log goes too.
    """

    def __init__(self, config: RunConfig, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._rounds, self._cohort = config.federation.rounds, config.federation.cohort
        done = 0
        if config.results.resume:
            from server.rundir import read_checkpoint

            checkpoint = read_checkpoint(Path(config.results.resume).expanduser())
            done = checkpoint["round"] if checkpoint else 0
        total = (self._rounds - done) * self._cohort
        self._first_round = done + 1
        self._task = self.progress.add_task("clients load their data", total=total)

    def on_reply(self, message_type: str, server_round: int, answered: int, sent: int) -> None:
        """Move on by one client."""
        if message_type == MessageType.TRAIN:
            self.progress.update(
                self._task,
                completed=(server_round - self._first_round) * self._cohort + answered,
                description=f"round {server_round}/{self._rounds}  client {answered}/{sent}",
            )


def run_locally(
    config: RunConfig, engine: str | None, workers: int | None, address: str | None, console: Console
) -> Path:
    """Run a federation with LocalGrid, draw its figures, and return its run directory."""
    log_to(console)
    # Flower tells at length what the progress bar and the round lines tell here.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    executor = make_executor(config, engine, workers, address)  # first: Ray's workers import what they need meanwhile
    try:
        from server.app import app

        bar = ProgressBar(config, console)
        with bar.progress:
            context = run_server(app, LocalGrid(config, executor, bar.on_reply), config)
    finally:
        executor.close()
    path = Path(str(context.state.config_records["run"]["path"]))
    from simulations.plots import plot_run

    plot_run(path)
    return path
