"""How fast this machine trains and attacks a configured network: a few real steps on random images."""

import resource
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.attacks.library import OF_EVALUATION, attack_mode, build_attack
from common.attacks.threat import AttackSpec
from common.config.schema import RunConfig
from common.factory import (
    evaluation_threat,
    make_method,
    make_model,
    make_trainer,
    prepare_torch,
    training_plan,
)
from common.models.flops import model_cost
from common.seeding import rng_for
from common.training.trainer import pixels
from server.run_directory.restored import with_first_precision
from simulations.estimates.work import local_passes

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

_BUDGET = 20e9  # FLOP of a measured training step, some seconds of a slow core
_BATCHES = 3
_TRIES = 3
_ATTACK = AttackSpec("pgd", 2)
_ATTACK_PASSES = 4
_UNKNOWN_PASSES = 50.0  # of DeepFool, or of a user's own loss
_TESTED = 64  # images of the measured attack


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        parameters: trainable weights of the network.
        flops: of one forward pass of one image.
        training: seconds of training on one image, in one worker.
        testing: seconds of one forward pass of one image in an evaluation.
        memory: bytes that such a process holds: of a GPU where there is one.
        device: where it was measured.
    """

    parameters: int
    flops: float
    training: float
    testing: float
    memory: int
    device: str


def measure(config: RunConfig, classes: int) -> Speed:
    """Train on a few random images by the local loss, attack some, and take the time; a first try is not counted.

    Args:
        config: of the run.
        classes: number of logits.
    """
    device = prepare_torch(config.threads)
    config = with_first_precision(config)
    model = make_model(config, classes).to(device)
    cost = model_cost(model, config.data.side)
    rng, side = rng_for(config.seed, "measured"), config.data.side
    images = rng.integers(0, 256, (max(_BATCHES * config.train.batch_size, _TESTED), 3, side, side), np.uint8)
    labels = rng.integers(0, classes, len(images))
    training = _train(config, model, images, labels, cost.flops)
    testing = _attack(config, model, images, labels, cost.flops)
    return Speed(cost.parameters, cost.flops, training, testing, _memory(device), str(device))


def _train(config: RunConfig, model: nn.Module, images: Images, labels: Labels, flops: float) -> float:
    """Return the seconds that an image takes in training."""
    most = _within_budget(local_passes(config) or _UNKNOWN_PASSES, flops)
    batch = min(config.train.batch_size, most)
    count = batch * max(1, min(_BATCHES, most // batch))
    method = make_method(config, model, int(labels.max()) + 1)
    trainer, loss = make_trainer(model, config, method), method.loss_for(labels)
    plan = training_plan(config, 1, 1, 1)
    trainer.fit(images[:batch], labels[:batch], loss, plan, seed=1)
    # It waits for a GPU; the fastest try, since other programs only make one slower.
    return min(trainer.fit(images[:count], labels[:count], loss, plan, seed=2).seconds for _ in range(_TRIES)) / count


def _attack(config: RunConfig, model: nn.Module, images: Images, labels: Labels, flops: float) -> float:
    """Return the seconds that a forward pass of an image takes in an attack of an evaluation."""
    count = min(_TESTED, _within_budget(_ATTACK_PASSES, flops))
    device = next(model.parameters()).device
    threat = _ATTACK.within(evaluation_threat(config))
    attack = build_attack(_ATTACK.name, model, threat, int(labels.max()) + 1, OF_EVALUATION, eot=1)
    inputs, targets = pixels(images[:count], device), torch.from_numpy(labels[:count]).to(device)
    with attack_mode(model):
        attack(inputs[:2], targets[:2]).cpu()
        tries = []
        for _ in range(_TRIES):
            started = time.perf_counter()
            attack(inputs, targets).cpu()
            tries.append(time.perf_counter() - started)
    return min(tries) / (_ATTACK_PASSES * count)


def _within_budget(passes: float, flops: float) -> int:
    """Return how many images can be measured, 2 or more."""
    return max(2, int(_BUDGET / max(1.0, passes * flops)))


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # bytes on macOS, kilobytes elsewhere
