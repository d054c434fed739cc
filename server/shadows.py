"""Shadow models: trained in one place, with a run's own settings, on images that an attacker holds."""

import logging
import math
import time
from pathlib import Path

import torch
from torch import nn

from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.errors import DeadEndError
from common.factory import check_batches, make_method, make_model, make_trainer, training_plan
from common.seeding import seed_for
from common.training.trainer import TrainingPlan
from server.run_directory.given_weights import fit_given
from server.run_directory.reader import CENTRALIZED, read_described_partition, read_kind, read_metrics
from server.run_directory.restored import with_first_precision

log = logging.getLogger("fedshield")

_SILENCE = 30.0  # seconds after which a long training logs its progress


def shadow_plans(run_dir: Path, config: RunConfig, last: int) -> list[TrainingPlan]:
    """Return how a shadow model is trained: as often on each image, and at the same rates, as a client trains.

    Args:
        run_dir: absolute.
        config: of the run.
        last: round or epoch of the attacked model.
    """
    if read_kind(run_dir) == CENTRALIZED:
        return [training_plan(config, 1, epoch, config.centralized.epochs) for epoch in range(1, last + 1)]
    federation, epochs = config.federation, config.train.local_epochs
    turns = max(1, round(last * federation.cohort / federation.clients))  # of one client
    rounds = (math.ceil(turn * last / turns) for turn in range(1, turns + 1))
    return [training_plan(config, epochs, number, federation.rounds) for number in rounds]


def tell_cost(run_dir: Path, config: RunConfig, shadows: int, images: int, plans: list[TrainingPlan]) -> None:
    """Say what the shadow models will cost, before the first of them.

    Args:
        run_dir: absolute.
        config: of the run.
        shadows: how many.
        images: of each.
        plans: of each.
    """
    epochs = sum(plan.epochs for plan in plans)
    passes, (done, seconds) = shadows * images * epochs, _spent(run_dir, config, len(plans))
    told = f", {passes / done:.1f} times what the run itself trained on" if done else ""
    if done and seconds:
        told += f" (about {max(1, round(passes / done * seconds / 60))} min at the speed of its clients)"
    log.info(
        "LiRA: training %d shadow models, each for %d epochs on %s images%s; --shadows 0 leaves this out",
        *(shadows, epochs, f"{images:,}", told),
    )


def _spent(run_dir: Path, config: RunConfig, epochs: int) -> tuple[int, float]:
    """Return on how many images, counted as often as they were seen, a run has trained, and for how many seconds."""
    described, metrics = read_described_partition(run_dir), read_metrics(run_dir)
    own = [sum(counts) for counts in described["clients"]]
    if read_kind(run_dir) == CENTRALIZED:
        return epochs * own[0], sum(float(line["seconds"]) for line in metrics)
    turns = [(int(client), told["seconds"]) for line in metrics for client, told in line.get("clients", {}).items()]
    shared = sum(described.get("shared", []))
    images = sum(own[client] + shared for client, _ in turns if client < len(own))
    return images * config.train.local_epochs, sum(seconds for _, seconds in turns)


class Shadows:
    """Trains shadow models one after the other, and tells how far it is.

    Args:
        run_dir: absolute.
        config: of the run.
        count: how many there will be.
        plans: of each.
        device: where they are trained.
    """

    def __init__(
        self, run_dir: Path, config: RunConfig, count: int, plans: list[TrainingPlan], device: torch.device
    ) -> None:
        begun = config.results.model_copy(update={"resume": str(run_dir)})  # whose precision counts
        self._config = with_first_precision(config.model_copy(update={"results": begun}))
        self._count, self._plans, self._device = count, plans, device
        self._started = self._spoke = time.monotonic()

    def train(self, number: int, data: Dataset) -> nn.Module:
        """Return a model with initial weights and random numbers of its own, after its training.

        Args:
            number: of the model, from 0.
            data: its images, two or more.

        Raises:
            FedShieldError: the training has diverged, or the user's loss or attack fails.
        """
        config = self._config.model_copy(update={"seed": seed_for(self._config.seed, "shadow", number) % 2**31})
        model = make_model(config, len(data.classes)).to(self._device)
        fit_given(config, model)  # as the run did
        check_batches(config, model, len(data.labels) == 1)
        method = make_method(config, model, len(data.classes))
        trainer, loss = make_trainer(model, config, method), method.loss_for(data.labels)
        momenta = trainer.momenta
        for place, plan in enumerate(self._plans, 1):
            seed = seed_for(config.seed, "train", place, 0)
            result = trainer.fit(data.images, data.labels, loss, plan, seed, momenta)
            momenta = trainer.momenta
            if not math.isfinite(result.loss):
                raise DeadEndError(
                    f"shadow model {number + 1}: its training loss is {result.loss}; leave LiRA out with --shadows 0"
                )
            self._tell(number, place, result.loss)
        return model.eval()

    def _tell(self, number: int, place: int, loss: float) -> None:
        now, turns = time.monotonic(), len(self._plans)
        if place < turns and now - self._spoke < _SILENCE:
            return
        self._spoke, done = now, number * turns + place
        left = (now - self._started) / done * (self._count * turns - done)
        log.info(
            "shadow model %d of %d: %d of %d passes, loss %.3f, about %.0f s left",
            *(number + 1, self._count, place, turns, loss, left),
        )
