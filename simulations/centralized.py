"""Adversarial training without a federation: one model, all training images, the same fit, losses and figures."""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from common.config.schema import RunConfig
from common.data.cuts import told_images
from common.data.datasets import Dataset
from common.data.server_data import take_server_data
from common.errors import DeadEndError, FedShieldError
from common.factory import (
    check_batches,
    make_method,
    make_model,
    make_trainer,
    prepare_data,
    prepare_torch,
    training_plan,
)
from common.models.networks import copies_on_cpu, load_state
from common.seeding import seed_for
from server.monitoring.observers import watching
from server.notices import (
    tell_idle_cores,
    tell_mirroring,
    tell_precision,
    tell_randomized,
    tell_rare_classes,
    tell_small_radius,
    tell_what_is_folded,
)
from server.preflight import check_settings
from server.recorder import Recorder
from server.run_directory.checkpoint import fit_state
from server.run_directory.environment import describe_environment
from server.run_directory.given_weights import begin_with_given, told_of_given
from server.run_directory.index import rounds_before
from server.run_directory.opening import check_place
from server.run_directory.reader import CENTRALIZED
from server.run_directory.restored import with_first_precision, with_first_threads
from server.run_directory.writer import RunDir, finished_run
from server.trial import try_model
from server.unread import tell_unread
from simulations.federation import complete, draw
from simulations.terminal.console import Output, Terminal
from simulations.terminal.live_view import LiveView

log = logging.getLogger("fedshield")

OnBatch = Callable[[int, int, int], None]


def run_centrally(config: RunConfig, console: Terminal, output: Output = Output.PLAIN) -> Path:
    """Train as ``train_centrally`` does, under a live view; draw the figures and return the run directory."""
    if (finished := finished_run(config, CENTRALIZED)) is not None:
        return complete(finished)
    check_place(config, CENTRALIZED)
    total, quiet = config.centralized.epochs, output is not Output.PLAIN
    view = LiveView(console, CENTRALIZED.unit, total, rounds_before(config), "loading the data", quiet=quiet)

    def on_batch(epoch: int, images: int, seen: int) -> None:
        view.show(epoch, seen / images, f"image {seen}/{images}")

    with view:
        path = train_centrally(config, on_batch)
    draw(path, CENTRALIZED)
    return path


def train_centrally(config: RunConfig, on_batch: OnBatch | None = None) -> Path:
    """Train one model on everything that is not held out for validation, or go on with it.

    Args:
        config: of the run; its federation, partition and sharing, and ``train.local-epochs``, are ignored.
        on_batch: called after each step with the epoch, its number of images, and how many of them are done.

    Returns:
        The run directory.

    Raises:
        FedShieldError: with one line that says what the user can do.
    """
    check_settings(config, CENTRALIZED)
    config = with_first_threads(config)
    device = prepare_torch(config.threads)
    splits, division = prepare_data(config, centralized=True)
    images, data = splits.train.take(division.shards[0]), take_server_data(splits, division)
    log.info("%s", told_images(data.described_partition, config.flat(), federated=False))
    tell_rare_classes(data.described_partition, config, federated=False)
    tell_mirroring(config)
    tell_small_radius(config)
    tell_unread(config, federated=False)
    evaluated = make_model(config, len(images.classes)).to(device)  # not the one that is trained
    given = begin_with_given(config, evaluated)
    try_model(config, CENTRALIZED, evaluated, len(images.classes))
    with RunDir.open(config, CENTRALIZED) as run, watching(config, run) as watchers:
        tell_idle_cores(config)
        weights = told_of_given(config, given, run.path)
        tell_what_is_folded(config, evaluated)
        tell_randomized(config, evaluated)
        recorder = Recorder(config, run, data, evaluated, watchers)
        environment = describe_environment(device, evaluated, images.images.shape[-1])
        run.write_environment({**environment, **tell_precision(config), **weights})
        run.write_partition(data.described_partition)
        _train(config, run, recorder, images, device, on_batch)
        recorder.finish()
    return run.path


def _train(
    config: RunConfig, run: RunDir, recorder: Recorder, data: Dataset, device: torch.device, on_batch: OnBatch | None
) -> None:
    """Go on from the last finished epoch; momentum is kept over all of them.

    An epoch draws the numbers that client 0 would draw in the round of the same number, so that one epoch is the same
    as one round of a federation of one client.
    """
    model = make_model(config, len(data.classes)).to(device)
    check_batches(config, model, len(data.labels) == 1)
    method = make_method(with_first_precision(config), model, len(data.classes))
    trainer = make_trainer(model, config, method)
    momenta = trainer.momenta
    if (state := run.load_checkpoint()) is not None:
        fit_state(model, state, run.path)
        momenta = run.load_momenta()
        if [momentum.shape for momentum in momenta] != [momentum.shape for momentum in trainer.momenta]:
            raise FedShieldError(
                f"{run.path}: its checkpoint has no momentum that fits its model; restore the files, or start a new run"
            )
    elif config.model.weights:
        load_state(model, recorder.model.state_dict())
    for epoch in range(run.completed_rounds + 1, run.total + 1):
        plan = training_plan(config, 1, epoch, run.total)
        loss = method.loss_for(data.labels)
        seed = seed_for(config.seed, "train", epoch, 0)
        show = on_batch and partial(on_batch, epoch, len(data.labels))
        result = trainer.fit(data.images, data.labels, loss, plan, seed, momenta, show)
        if not math.isfinite(result.loss):
            raise DeadEndError(
                f"epoch {epoch}: the training loss is {result.loss}; start a new run with a lower train.learning-rate, "
                "or with train.warmup"
            )
        momenta, state = trainer.momenta, model.state_dict()
        recorder.after_round(
            epoch,
            dict(zip(state, copies_on_cpu(state.values()), strict=True)),
            {"loss": result.loss, "learning-rate": plan.learning_rate},
            copies_on_cpu(momenta),
        )
