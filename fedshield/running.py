"""Trains from Python as ``fedshield run`` and ``fedshield centralized`` do, with objects in the place of files."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import FedShieldError
from fedshield.given import tell_cluster
from fedshield.guest import at_work
from fedshield.results import Run
from fedshield.settings import BESIDE, configuration
from server.run_directory.opening import NameTakenError
from simulations.federation import run_locally
from simulations.terminal.console import Output

log = logging.getLogger("fedshield")

_ENGINES = ("inprocess", "processes", "ray")
Preset = str | Path | None
Named = str | Path | Callable[..., Any] | None
"""A name of the configuration, ``FILE.py:NAME``, or a function or class."""


def run(
    preset: Preset = None,
    *,
    model: Named = None,
    loss: Named = None,
    attack: Named = None,
    method: Named = None,
    strategy: Named = None,
    selection: Named = None,
    data: Any = None,
    test: Any = None,
    clients: int | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    epsilon_255: float | None = None,
    name: str | None = None,
    results: str | Path | None = None,
    resume: str | Path | None = None,
    engine: str | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    trust_code: bool = False,
    quiet: bool = False,
    **keys: Any,
) -> Run:
    """Train a federation, as ``fedshield run`` does: the same settings give the same numbers.

    Args:
        preset: a preset's name, or a TOML file.
        model: a network's name, or ``FILE.py:NAME``; or what that would name: an ``nn.Module`` class or a function that
            makes one, from pixels [B,3,H,W] in [0, 1] to logits; or a network, which starts with its weights.
        loss: the training method: a name, or a function as in ``docs/own.md``.
        attack: the training attack, likewise.
        method: the federated method: a name, or a subclass of ``Method``.
        strategy: the aggregation rule: a name, or a function of ``Received``.
        selection: of the clients of a round: a name, or a function of ``Candidates``.
        data: a dataset's name; the path of an image folder; a pair ``(images, labels)``; or a dataset of torch.
        test: the test images, if ``data`` is a pair or a dataset; None holds out one of five images.
        clients: of the federation, 1 or more.
        rounds: 1 or more.
        seed: of all random numbers, 0 or more.
        epsilon_255: radius of the attacks, in 1/255 of the pixel range.
        name: of the run directory.
        results: folder for the run directories.
        resume: an unfinished run to continue: its directory or name.
        engine: ``inprocess``, ``processes`` or ``ray``; None chooses as ``fedshield run`` does.
        workers: how many clients train at a time, 1 or more.
        ray_address: ``HOST:PORT`` of a Ray cluster.
        trust_code: run code of ``resume`` that has not run on this machine before.
        quiet: show only warnings.
        keys: of the configuration, as in ``**{"attack.epsilon-255": 8}``.

    Raises:
        FedShieldError: a mistake that the user can fix, as one line.
        KeyboardInterrupt: the run was interrupted; a line says how to continue it.
    """
    arguments = {key: value for key, value in locals().items() if key not in (*BESIDE, "keys")}
    _check_engine(engine, workers)
    with at_work(quiet) as console, _told_how_to_go_on("run"):
        config = configuration(preset, arguments, keys, "federation", resume, trust_code)
        if ray_address is not None:
            tell_cluster(reference for _, reference in config.user_code_references())
        output = Output.QUIET if quiet else Output.PLAIN
        return Run(run_locally(config, engine, workers, ray_address, console, output))


def centralized(
    preset: Preset = None,
    *,
    model: Named = None,
    loss: Named = None,
    attack: Named = None,
    data: Any = None,
    test: Any = None,
    epochs: int | None = None,
    seed: int | None = None,
    epsilon_255: float | None = None,
    name: str | None = None,
    results: str | Path | None = None,
    resume: str | Path | None = None,
    trust_code: bool = False,
    quiet: bool = False,
    **keys: Any,
) -> Run:
    """Train one model on all the data, as ``fedshield centralized`` does; the arguments are those of ``run``.

    Args:
        preset: as in ``run``.
        model: as in ``run``.
        loss: as in ``run``.
        attack: as in ``run``.
        data: as in ``run``.
        test: as in ``run``.
        epochs: 1 or more.
        seed: as in ``run``.
        epsilon_255: as in ``run``.
        name: as in ``run``.
        results: as in ``run``.
        resume: as in ``run``.
        trust_code: as in ``run``.
        quiet: as in ``run``.
        keys: as in ``run``.

    Raises:
        FedShieldError: as in ``run``.
        KeyboardInterrupt: as in ``run``.
    """
    arguments = {key: value for key, value in locals().items() if key not in (*BESIDE, "keys")}
    with at_work(quiet) as console, _told_how_to_go_on("centralized"):
        config = configuration(preset, arguments, keys, "centralized", resume, trust_code)
        from simulations.centralized import run_centrally

        return Run(run_centrally(config, console, Output.QUIET if quiet else Output.PLAIN))


def _check_engine(engine: str | None, workers: int | None) -> None:
    if engine is not None and engine not in _ENGINES:
        raise FedShieldError(f"engine = {engine!r}: unknown; allowed: {', '.join(_ENGINES)}")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise FedShieldError(f"workers = {workers!r}: give a whole number of 1 or more")


class _Started(logging.Handler):
    """Hears in which directory a run begins, or stops where only warnings are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.path = ""

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", {})
        self.path = event.get("path", self.path)


@contextmanager
def _told_how_to_go_on(function: str) -> Iterator[None]:
    """Say, where a run is interrupted or its name is taken, how it goes on from Python."""
    started = _Started()
    log.addHandler(started)
    try:
        yield
    except NameTakenError as error:
        path, command = str(error.path), error.kind.command.replace(" ", ".")
        raise FedShieldError(
            f"{path}: contains another run; choose another name, read it with fedshield.load({path!r}), or continue it "
            f"with {command}(resume={path!r})"
        ) from None
    except KeyboardInterrupt:
        if started.path:
            log.warning("In Python: fedshield.%s(resume=%r)", function, started.path)
        raise
