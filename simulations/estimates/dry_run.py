"""``--dry-run``: all checks before round 1, and what a run will take; nothing is written but the cache of images."""

import torch

from common.config.schema import RunConfig
from common.data.cuts import told_images
from common.data.datasets import is_at_hand
from common.data.downloads import PUBLISHED
from common.data.server_data import take_server_data
from common.factory import prepare_data, server_data
from common.words import some, time_text
from server.notices import tell_mirroring, tell_rare_classes, tell_settings, tell_small_radius
from server.run_directory.index import rounds_before
from server.run_directory.opening import check_place
from server.run_directory.reader import CENTRALIZED, Kind
from server.sharing import check_sharing
from server.unread import tell_unread
from simulations.estimates.speed import Speed, measure
from simulations.estimates.work import Work, count_images, work_of
from simulations.federation import checked_engine
from simulations.studies.trial import try_out
from simulations.terminal.console import Terminal

NOTHING = "Dry run: everything that is checked before round 1 is in order; nothing was trained, and no result written"


def dry_run(
    config: RunConfig,
    kind: Kind,
    console: Terminal,
    engine: str | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> None:
    """Check a run and print what it will take.

    Args:
        config: of the run.
        kind: of the run.
        console: where the lines go.
        engine: as in ``run_locally``.
        workers: as in ``run_locally``.
        address: as in ``run_locally``.

    Raises:
        FedShieldError: the run would not start.
    """
    engine = "inprocess" if kind == CENTRALIZED else checked_engine(config, engine, workers, address)
    check_place(config, kind)
    try_out(config, federation=kind != CENTRALIZED)
    _look_at_data(config, kind, console)
    images = count_images(config, kind)
    work = work_of(config, kind, images, rounds_before(config))
    side_by_side = _workers(config, kind, engine, workers)
    console.print(NOTHING)
    speed = measure(config, images.classes)
    for line in (*_told(config, kind, work, speed, engine, side_by_side), *time_lines(work, speed, side_by_side)):
        console.print(line)


def _look_at_data(config: RunConfig, kind: Kind, console: Terminal) -> None:
    """Divide the data as the run will, where it is on this machine."""
    data = config.data
    if not is_at_hand(data.name, data.root, data.image_size, data.resize):
        size = f" ({PUBLISHED[data.name].megabytes} MB)" if data.name in PUBLISHED else ""
        console.print(f"Images: {data.name} is not in {data.root}: the run downloads it first{size}")
        return
    if kind == CENTRALIZED:
        described = take_server_data(*prepare_data(config, centralized=True)).described_partition
        console.print(told_images(described, config.flat(), federated=False))
        tell_rare_classes(described, config, federated=False)
        tell_mirroring(config)
        tell_small_radius(config)
        tell_unread(config, federated=False)
        return
    held = server_data(config)
    tell_settings(config, held.described_partition)
    check_sharing(config, held)


def _workers(config: RunConfig, kind: Kind, engine: str, workers: int | None) -> int:
    if kind == CENTRALIZED or engine == "inprocess":
        return 1
    from simulations.engine.process_executor import worker_count

    return worker_count(config, workers or (torch.cuda.device_count() if engine == "ray" else 0) or None)


def _told(config: RunConfig, kind: Kind, work: Work, speed: Speed, engine: str, workers: int) -> list[str]:
    """Return lines about the network, the rounds and the work."""
    model = f"Model: {config.model.name}, {speed.parameters:,} parameters, {flop_text(speed.flops)} a forward pass"
    unit = kind.unit
    if kind == CENTRALIZED:
        who = f"{work.rounds} {unit}s on all images"
    else:
        many = f"{config.federation.clients} clients, {work.cohort} of them a round"
        who = f"{work.rounds} {unit}s, {many}, engine {engine} with {workers} worker{'s' * (workers > 1)}"
    cost = "passes known only by a try"
    if work.passes is not None:
        total = work.images * work.passes
        cost = f"{work.passes:.4g} passes each, {flop_text(total * speed.flops)} in all"
    return [
        model,
        f"Rounds: {who}",
        f"Training: {work.images:,.0f} images, over all {unit}s; {cost}",
        f"Evaluation: {work.tested:,.0f} passes, {flop_text(work.tested * speed.flops)}" + _left_out(work.unknown),
    ]


def _left_out(unknown: tuple[str, ...]) -> str:
    return f", without {some(unknown, 3)}" if unknown else ""


def seconds_of(work: Work, speed: Speed, workers: int) -> tuple[float, float]:
    """Return the seconds of training and of evaluation; the turns of a round are shared out among the workers."""
    turns = -(-work.cohort // workers) / work.cohort  # of the time that one worker would need
    return work.images * speed.training * work.factor * turns, work.tested * speed.testing


def time_lines(work: Work, speed: Speed, workers: int) -> list[str]:
    """Return lines about time and memory."""
    training, testing = seconds_of(work, speed, workers)
    measured = f"{_short(speed.training)} an image of training, {_short(speed.testing)} a pass of evaluation"
    many = f" in each of {workers} workers" if workers > 1 else ""
    return [
        f"Time: about {time_text(training + testing)}: training {time_text(training)}, evaluation "
        f"{time_text(testing)} (measured here, {speed.device}: {measured}; start and data come on top)",
        f"Memory: about {speed.memory / 1e9:.1f} GB{many}, without the images",
    ]


def _short(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def flop_text(number: float) -> str:
    """Write floating-point operations: ``3.2 GFLOP``."""
    for size, unit in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kFLOP"
