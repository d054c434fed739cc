"""What a user should know of a run before its first round, where nothing is wrong: a line each."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from common.attacks.threat import doubted_radius
from common.config.schema import RunConfig
from common.data.cuts import told_images
from common.data.rare_classes import few_images, told_rare_classes
from common.evaluation.model_checks import EOT, is_randomized
from common.factory import adversarial_clients
from common.machine import available_cores, fitting_precision, may_have_gpu
from common.models.fast_network import why_not_folded
from common.models.folding import Folded
from common.seeding import rng_for
from common.user_code import is_user_code
from common.words import some
from server.aggregation.rules import RULES, ByPool
from server.run_directory.restored import with_first_precision
from server.unread import tell_unread

log = logging.getLogger("fedshield")


def tell_settings(config: RunConfig, described: Mapping[str, Any]) -> None:
    """Tell what can be told of a federation before its clients are waited for.

    Args:
        config: of the run.
        described: the division, as in ``partition.json``.
    """
    log.info("%s", told_images(described, config.flat(), federated=True))
    tell_rare_classes(described, config)
    tell_mirroring(config)
    tell_small_radius(config)
    tell_who_is_able(config)
    tell_unread(config)
    tell_sharing(config)


def tell_small_radius(config: RunConfig) -> None:
    """Warn of a radius that is most likely in another unit, or of an L2 radius that only fits Linf, as the default."""
    attack = config.attack
    if doubt := doubted_radius("attack.epsilon-255", attack.epsilon_255, attack.norm):
        log.warning("warning: %s", doubt)


def tell_idle_cores(config: RunConfig) -> None:
    """Tell how to use all cores where one model computes: the default suits clients that train side by side."""
    cores = available_cores()
    if 0 < config.threads < cores and not may_have_gpu():
        log.info("threads = %d of %d cores; use them all with --set threads=0", config.threads, cores)


def tell_rare_classes(described: Mapping[str, Any], config: RunConfig, federated: bool = True) -> None:
    """Tell what balanced draws have done to rare classes, and warn of classes with too few images to train on.

    Args:
        described: the division, as in ``partition.json``.
        config: of the run.
        federated: whether the images to train on are the clients'.
    """
    for line in told_rare_classes(described, config.flat()):
        log.info("%s", line)
    if line := few_images(described, federated):
        log.warning("warning: %s", line)


def tell_who_is_able(config: RunConfig) -> None:
    """Tell which clients train adversarially, where not all of them can afford it."""
    able = sorted(adversarial_clients(config))
    if len(able) < config.federation.clients:
        who = f" ({some([*map(str, able)], 20)})" if able else ""
        log.info(
            "federation.adversarial-clients = %g: %d of %d clients train adversarially%s, the others naturally",
            *(config.federation.adversarial_clients, len(able), config.federation.clients, who),
        )


def tell_sharing(config: RunConfig) -> None:
    """Tell of settings of sharing without effect, and what still depends on the pool's real images."""
    sharing = config.sharing
    if sharing.kind == "images":
        return
    if sharing.fraction == 0:
        log.info("sharing.kind = %s has no effect: sharing.fraction = 0", sharing.kind)
    uses = {
        f"strategy.name = {config.strategy.name}": isinstance(RULES.get(config.strategy.name), ByPool),
        f"sharing.warm-start-epochs = {sharing.warm_start_epochs}": sharing.warm_start_epochs > 0,
        f"data.validation-fraction = {config.data.validation_fraction:g}": config.data.validation_fraction > 0,
    }
    if used := [key for key, is_used in uses.items() if is_used]:
        log.info(
            "sharing.kind = %s changes only what clients receive: %s still uses real images, at the server, and the "
            "models that clients receive depend on them",
            *(sharing.kind, ", ".join(used)),
        )


def tell_mirroring(config: RunConfig) -> None:
    """Tell of mirrored images where nobody has said that they keep their class, and of a setting without effect."""
    train, data = config.train, config.data
    if not train.augment:
        if train.flip == "on":
            log.info("train.flip = on has no effect: train.augment = false")
    elif train.flip == "auto" and data.keeps_class_mirrored is None:
        log.info(
            "train.flip = auto: about half of the training images are mirrored, left to right; where a mirrored image "
            "is of another class (digits, text), set train.flip=off"
        )


def tell_precision(config: RunConfig) -> dict[str, str]:
    """Tell what ``train.attack-precision = auto`` is in this run, and return it as ``environment.json`` keeps it.

    Args:
        config: of the run, whose clients compute on this machine, or as it says to them.
    """
    if config.train.attack_precision != "auto":
        return {}
    now, used = fitting_precision(), with_first_precision(config).train.attack_precision
    if used == now:
        has = "has" if now == "bfloat16" else "has no"
        log.info("train.attack-precision = auto: %s, since this processor %s instructions for bfloat16", used, has)
    else:
        log.warning(
            "train.attack-precision = auto: %s, with which the run began; a new run on this processor would have %s%s",
            *(used, now, ", and bfloat16 is slow here" if used == "bfloat16" else ""),
        )
    return {"attack-precision": used}


def tell_what_is_folded(config: RunConfig, model: nn.Module) -> None:
    """Tell where ``attack.fast`` changes nothing, or less than its name promises.

    Args:
        config: of the run.
        model: as it is trained.
    """
    if not config.attack.fast or config.attack.name == "none":
        return
    if is_user_code(config.attack.name):
        log.info(
            "attack.fast = true has no effect: attack.name = %s is not one of FedShield's attacks", config.attack.name
        )
        return
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    folded, where = Folded.pairs(model), "that follows a convolution in an nn.Sequential without hooks"
    if not folded:
        log.info(
            "attack.fast = true has no effect: model.name = %s has no batch normalization %s", config.model.name, where
        )
    elif reason := why_not_folded(model, config.data.side, config.data.side):
        log.info("attack.fast = true has no effect: model.name = %s %s", config.model.name, reason)
    elif folded < norms:
        log.info(
            "attack.fast = true folds %d of the %d batch normalizations of %s: each %s",
            *(folded, norms, config.model.name, where),
        )


def tell_randomized(config: RunConfig, model: nn.Module) -> None:
    """Tell that a user's network is randomized, since each evaluation then takes many times as long.

    Args:
        config: of the run.
        model: as it is trained.
    """
    if not is_user_code(config.model.name):
        return
    images = rng_for(config.seed, "try").integers(0, 256, (8, 3, config.data.side, config.data.side), np.uint8)
    if is_randomized(model, images, config.seed):
        log.info(
            "model.name = %s is randomized: attacks of evaluations see the mean of its logits over %d forward passes "
            "(evaluate.eot)",
            *(config.model.name, config.evaluate.eot or EOT),
        )
