"""The ServerApp: the composition root of a run, the same on every engine."""

import io
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from torch import nn

from common.config.schema import RunConfig, parse_config
from common.data.datasets import Dataset
from common.data.server_data import ServerData
from common.errors import FedShieldError, explain_os_errors
from common.factory import make_federated_method, make_model, prepare_torch, server_data
from common.messages.records import State, to_record, to_state
from common.messages.shared_slice import shared_record
from common.words import visible
from server import earlier
from server.aggregation.root import Root
from server.aggregation.rules import RULES, ByPool, no_pool
from server.aggregation.selection import Cohort, find_selection
from server.aggregation.strategy import SharedDataFedAvg
from server.aggregation.whole_round import find_rule
from server.monitoring.observers import watching
from server.network.roster import Roster
from server.notices import tell_precision, tell_randomized, tell_settings, tell_what_is_folded
from server.personal import tell_what_stays
from server.preflight import check_settings
from server.privacy import find_privacy, tell_budget_spent, tell_privacy
from server.recorder import Recorder
from server.repair.preflight import check_sight
from server.repair.strategy import EndedEarly, RepairingFedAvg
from server.run_directory.checkpoint import fit_state
from server.run_directory.environment import describe_environment
from server.run_directory.given_weights import begin_with_given, told_of_given
from server.run_directory.reader import DEPLOYED, FEDERATION, Kind
from server.run_directory.restored import with_first_threads
from server.run_directory.writer import RunDir, finished_run
from server.sharing import check_sharing, with_shared
from server.trial import try_model
from server.warm_start import warm_start

log = logging.getLogger("fedshield")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation from its configuration to its summary; the run directory's path is left in the state."""
    _speak_plainly()
    with explain_os_errors():
        path = run_federation(grid, parse_config(context.run_config))
    # Flower tells once that the run is complete, and a SuperLink that is starting again would take it for failed.
    list(grid.get_node_ids())
    context.state["run"] = ConfigRecord({"path": str(path)})


def run_federation(grid: Grid, config: RunConfig) -> Path:
    """Run, or resume, a federation; return its run directory.

    Raises:
        FedShieldError: with one line that says what the user can do.
    """
    kind = DEPLOYED if _is_flowers(grid) else FEDERATION
    if (finished := finished_run(config, kind)) is not None:
        return finished
    check_settings(config, kind)
    config = with_first_threads(config)
    device = prepare_torch(config.threads)
    data = server_data(config)
    if kind is DEPLOYED:
        grid = _polled(grid)
    tell_settings(config, data.described_partition)
    check_sharing(config, data)
    check_sight(config, data)
    model = make_model(config, len(data.test.classes)).to(device)
    given = begin_with_given(config, model)
    try_model(config, kind, model, len(data.test.classes))
    roster = Roster(grid, config.federation, _own_images(data))
    roster.gather()
    with RunDir.open(config, kind) as run, watching(config, run) as watchers:
        told = told_of_given(config, given, run.path)
        tell_what_is_folded(config, model)
        _tell(config, model, kind)
        recorder = Recorder(config, run, data, model, watchers)
        told |= {} if kind == DEPLOYED else tell_precision(config)
        run.write_environment({**describe_environment(device, model, data.test.images.shape[-1]), **told})
        data = with_shared(config, data, run.path, device)
        run.write_partition(data.described_partition)
        strategy = _strategy(config, run, model, data, roster, recorder)
        _begin(config, run, model, data)
        if isinstance(grid, KeepsForClients):
            grid.restore_kept(run.load_kept("clients"), strategy.counted)
        with suppress(EndedEarly):
            strategy.start(
                grid,
                initial_arrays=to_record(model.state_dict()),
                # 0 where only the final evaluation was missing.
                num_rounds=max(0, run.total - run.completed_rounds),
                timeout=config.federation.client_timeout_seconds,
                evaluate_fn=_after_round(strategy, recorder, grid),
            )
        tell_budget_spent(config)
        recorder.finish()
    return run.path


def _begin(config: RunConfig, run: RunDir, model: nn.Module, data: ServerData) -> None:
    """Put into the network what the next round starts from."""
    if (state := run.load_checkpoint()) is not None:
        fit_state(model, state, run.path)
    else:
        warm_start(config, model, data.pool)


def _tell(config: RunConfig, model: nn.Module, kind: Kind) -> None:
    """Tell what a user should know of the run's network before round 1."""
    tell_randomized(config, model)
    method = make_federated_method(config)
    tell_privacy(config, model, method, kind)
    tell_what_stays(method, model, config.method.fine_tune_epochs > 0, far=kind == DEPLOYED)


@runtime_checkable
class KeepsForClients(Protocol):
    """A grid of this machine, which has what the clients of a simulation keep between rounds."""

    def kept(self, counted: Sequence[int]) -> State:
        """Return all of it, by client and name; ``counted``: the round of each client's last turn that counted."""
        ...

    def restore_kept(self, kept: State, counted: Sequence[int]) -> None:
        """Give it back to the clients."""
        ...


def _after_round(
    strategy: SharedDataFedAvg, recorder: Recorder, grid: Grid
) -> Callable[[int, ArrayRecord], MetricRecord | None]:
    """Return what Flower calls with each new model: it is evaluated and written down."""

    def after_round(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 0:  # Flower asks before the first round too
            return None
        kept = {
            "server": strategy.kept(),
            "clients": grid.kept(strategy.counted) if isinstance(grid, KeepsForClients) else {},
        }
        done = strategy.completed_rounds + server_round
        evaluation = recorder.after_round(done, to_state(arrays), strategy.report, kept=kept)
        return MetricRecord({**evaluation.values()}) if evaluation else None

    return after_round


def _is_flowers(grid: Grid) -> bool:
    """Return whether a grid is one of Flower's own, whose imports a run on this machine is spared: a second."""
    if "flwr.superlink.grid" not in sys.modules:
        return False
    from flwr.superlink.grid.http_grid import HttpGrid
    from flwr.superlink.grid.inmemory_grid import InMemoryGrid

    return isinstance(grid, HttpGrid | InMemoryGrid)


def _polled(grid: Grid) -> Grid:
    """Return Flower's grid over HTTP as one that is polled for replies; any other as it is."""
    from flwr.superlink.grid.http_grid import HttpGrid

    from server.network.polling_grid import PollingGrid

    return PollingGrid(grid) if isinstance(grid, HttpGrid) else grid


def _own_images(data: ServerData) -> tuple[int, ...]:
    """Return how many training images of its own each client has."""
    return tuple(data.counts.sum(axis=1).tolist())


def _strategy(
    config: RunConfig, run: RunDir, model: nn.Module, data: ServerData, roster: Roster, recorder: Recorder
) -> SharedDataFedAvg:
    """Put together how the rounds are run, from where the run has got to."""
    cohort = Cohort(
        size=config.federation.cohort,
        min_replies=config.federation.min_replies,
        examples=tuple(images + len(data.shared.labels) for images in _own_images(data)),
        seed=config.seed,
        select=find_selection(config.federation),
    )
    method = make_federated_method(config)
    shared = shared_record(data.shared) if len(data.shared.labels) else None
    weights = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    made: Callable[..., SharedDataFedAvg] = SharedDataFedAvg
    if recorder.repair is not None:
        take = partial(_slice, data, config.seed)
        made = partial(RepairingFedAvg, repair=recorder.repair, take=take, own=_own_images(data))
    return made(
        cohort,
        roster,
        config.strategy,
        shared,
        run.completed_rounds,
        earlier.last_round(run.metrics()),
        method=method,
        rule=find_rule(config.strategy, config.train.learning_rate),
        counted=earlier.counted(run, config.federation.clients),
        losses=earlier.losses(run, config.federation.clients),
        kept=earlier.kept(run, method),
        weights=weights,
        engine=run.kind != DEPLOYED,
        fine_tune_after=run.total if config.method.fine_tune_epochs else 0,
        root=_root(config, data.pool, next(model.parameters()).device),
        privacy=find_privacy(config, model, method, run.kind, run.load_kept("server")),
        compare=recorder.compare,
    )


def _slice(data: ServerData, seed: int, share: float) -> Dataset:
    return data.pool.take(data.slice(share, seed))


def _root(config: RunConfig, pool: Dataset, device: torch.device) -> Root | None:
    """Return the server's own images, if the strategy judges by them."""
    if not isinstance(RULES.get(config.strategy.name), ByPool):
        return None
    if not len(pool.labels):
        raise no_pool(config.strategy)
    return Root(config, pool, device)


def _speak_plainly() -> None:
    """Set up the log where no command line has done so, and show the user's mistakes without a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # or a line with a character that it lacks would be lost
    if not log.hasHandlers():
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(_Lines())
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    flower = logging.getLogger("flwr")
    if not any(isinstance(known, _OneLine) for known in flower.filters):
        flower.addFilter(_OneLine())


class _Lines(logging.Formatter):
    """Text from clients and files reaches a terminal, or a log, as one line of visible characters."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _OneLine(logging.Filter):
    """Flower logs what its apps raise with a traceback; the message of a FedShieldError is enough."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, FedShieldError):
            record.msg, record.args, record.exc_info = visible(str(error)), (), None
        return True
