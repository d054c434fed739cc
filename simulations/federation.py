"""One federation on this machine: engine, live view, figures."""

import logging
import sys
from pathlib import Path

from flwr.app import MessageType

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.machine import may_have_gpu
from server.run_directory.index import rounds_before
from server.run_directory.opening import check_place
from server.run_directory.reader import FEDERATION, Kind
from simulations.engine.executor import Executor, InProcess
from simulations.engine.local_grid import LocalGrid, Reply, run_server
from simulations.terminal.console import Output, Terminal, figures_may_fail
from simulations.terminal.live_view import LiveView

log = logging.getLogger("fedshield")


def draw(run_dir: Path, kind: Kind) -> None:
    """Draw the figures of a run that has just finished."""
    with figures_may_fail(kind.again(run_dir)):
        from simulations.reports.figures.run_figures import plot_run

        plot_run(run_dir)


def complete(run_dir: Path) -> Path:
    """Draw the figures that a finished run lacks, and log which; return its directory."""
    from simulations.reports.figures.run_figures import missing_figures, plot_run

    if missing := missing_figures(run_dir):
        plot_run(run_dir)
        log.info("Missing figures drawn: %s", ", ".join(str(path.relative_to(run_dir)) for path in missing))
    else:
        log.info("Nothing is missing.")
    return run_dir


def run_locally(
    config: RunConfig,
    engine: str | None,
    workers: int | None,
    address: str | None,
    console: Terminal,
    output: Output = Output.PLAIN,
) -> Path:
    """Run a federation with LocalGrid, draw its figures, and return its run directory."""
    from server.run_directory.restored import with_first_precision, with_first_threads

    if config.results.resume:
        from server.run_directory.writer import finished_run

        if (finished := finished_run(config)) is not None:
            return complete(finished)
    check_place(config, FEDERATION)
    config.check_division()  # before Ray starts
    rounds = FEDERATION.total(config)
    if config.byzantine.clients:
        from simulations.engine.byzantine import ByzantineExecutor, check_liars

        check_liars(config)
    config = with_first_threads(config)
    # Flower would log at length what the live view and the round lines show here.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    # First: processes are forked from this one before it computes, and Ray's workers import meanwhile.
    executor: Executor = make_executor(config, engine, workers, address)
    try:
        if config.byzantine.clients:
            executor = ByzantineExecutor(executor, config)
        from server.app import app

        federation, quiet = config.federation, output is not Output.PLAIN
        first = "clients load their data"
        view = LiveView(console, "round", rounds, rounds_before(config), first, federation.clients, quiet)

        def on_reply(reply: Reply) -> None:
            if reply.message.metadata.message_type == MessageType.TRAIN:
                view.client(reply.client, reply.seconds, reply.answered)
                view.show(reply.server_round, reply.answered / reply.sent, f"client {reply.answered}/{reply.sent}")

        with view:
            context = run_server(app, LocalGrid(with_first_precision(config), executor, on_reply), config)
    finally:
        executor.close()
    path = Path(str(context.state.config_records["run"]["path"]))
    draw(path, FEDERATION)
    return path


def make_executor(config: RunConfig, engine: str | None, workers: int | None, address: str | None) -> Executor:
    """Return the executor of ``--engine``, ``--workers`` and ``--ray-address``; see ``fitting_engine``.

    Raises:
        FedShieldError: they do not go together.
    """
    engine = checked_engine(config, engine, workers, address)
    if engine == "ray":
        from simulations.engine.ray_executor import RayActors

        return RayActors(config, workers, address)
    if engine == "processes":
        from simulations.engine.process_executor import Processes

        return Processes(config, workers)
    return InProcess()


def checked_engine(config: RunConfig, engine: str | None, workers: int | None, address: str | None) -> str:
    """Return the engine that is named, or fits; the arguments and errors are those of ``make_executor``."""
    engine = engine or fitting_engine(config, workers, address)
    if engine != "ray" and address is not None:
        raise FedShieldError(f"--ray-address {address}: the {engine} engine uses no cluster; use --engine ray")
    if engine == "inprocess" and workers not in (None, 1):
        raise FedShieldError(f"--workers {workers}: the inprocess engine has one; use --engine processes for more")
    return engine


def fitting_engine(config: RunConfig, workers: int | None, address: str | None) -> str:
    """Return the engine of a run for which none was named.

    Ray for several GPUs or a cluster; on CPUs processes, where more than one client can train at a time; else this
    process.

    Args:
        config: of the run.
        workers: how many the user asks for, if any.
        address: of the Ray cluster to join, if any.
    """
    if address is not None:
        return "ray"
    if may_have_gpu():
        import torch

        if torch.cuda.is_available():
            return "ray" if torch.cuda.device_count() > 1 else "inprocess"
    from simulations.engine.process_executor import worker_count

    return "processes" if worker_count(config, workers) > 1 and sys.platform == "linux" else "inprocess"
