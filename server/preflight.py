"""May this run start? All checks of its configuration before the first round."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from common.attacks.library import OF_EVALUATION, build_attack, check_classes
from common.attacks.threat import ITERATED, L2, AttackSpec, radius
from common.config.schema import RunConfig
from common.data.rare_classes import few_images, told_rare_classes
from common.errors import FedShieldError
from common.evaluation.model_checks import EOT, is_randomized
from common.factory import (
    adversarial_clients,
    check_user_code,
    evaluation_threat,
    make_federated_method,
    threat_of,
)
from common.machine import available_cores, fitting_precision, may_have_gpu
from common.methods.feddynat import FedDynAT
from common.models.fast_network import why_not_folded
from common.models.folding import Folded
from common.seeding import rng_for
from common.user_code import is_user_code
from common.words import some
from server.aggregation.rules import RULES, ByPool, check_strategy, no_pool
from server.aggregation.selection import check_selection
from server.aggregation.strategy import Cohort
from server.personal import check_personal
from server.run_directory.reader import CENTRALIZED, DEPLOYED, Kind
from server.run_directory.restored import with_first_precision

log = logging.getLogger("fedshield")

_SMALL_L2 = 32  # 1/255; published ones for images of 32 pixels are 64 to 255


def check_settings(config: RunConfig, kind: Kind) -> None:
    """Check what can be wrong in a configuration, before any data is read.

    Args:
        config: of the run.
        kind: of the run; centralized training has no strategy and no division among clients.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    if kind != CENTRALIZED:
        check_strategy(config.strategy, config.federation.cohort)
        by_pool = isinstance(RULES.get(config.strategy.name), ByPool)
        if by_pool and config.sharing.pool_fraction == 0 and config.data.name != "split":
            raise no_pool(config.strategy)
    _check_average(config, kind)
    check_user_code(config)
    if kind == DEPLOYED:
        _check_deployed(config)
    if kind != CENTRALIZED:
        check_selection(config.federation)
        _check_method(config)
        config.check_division()


def _check_average(config: RunConfig, kind: Kind) -> None:
    train, total = config.train, int(config.flat()[kind.length])
    if train.average != "none" and train.average_start > total:
        raise FedShieldError(
            f"train.average-start = {train.average_start}: train.average = {train.average} would have no model to "
            f"average in {total} {kind.unit}s; lower it, or set train.average=none"
        )


def _check_method(config: RunConfig) -> None:
    name, method = config.method.name, make_federated_method(config)
    ruled = config.strategy.name in {*RULES, "qfedavg"} or is_user_code(config.strategy.name)
    if ruled and (method.weighs() or method.combines()):
        raise FedShieldError(
            f"strategy.name = {config.strategy.name}: method.name = {name} averages the replies in its own way; set "
            "strategy.name=fedavg, or another method"
        )
    if name == "sfat" and config.method.sfat_top >= config.federation.cohort:
        raise FedShieldError(
            f"method.sfat-top = {config.method.sfat_top}: of {config.federation.cohort} clients a round, all would be "
            "preferred; lower it"
        )
    if isinstance(method, FedDynAT):
        log.info(
            "method.name = feddynat: %d local epochs in round 1, %d in round %d; train.local-epochs is not used",
            *(method.epochs(1), method.epochs(config.federation.rounds), config.federation.rounds),
        )
    check_personal(config, method)
    if config.federation.selection == "uniform" and method.keeps and (missed := _never_asked(config)):
        log.warning(
            "method.name = %s: %d of %d clients are never asked, in %d rounds with federation.fraction = %g",
            *(name, missed, config.federation.clients, config.federation.rounds, config.federation.fraction),
        )


def _never_asked(config: RunConfig) -> int:
    """Return how many clients no round will choose."""
    settings = config.federation
    cohort = Cohort(settings.cohort, settings.min_replies, (0,) * settings.clients, config.seed)
    asked = {client for number in range(1, settings.rounds + 1) for client in cohort.sample(number)}
    return settings.clients - len(asked)


def check_attacks(config: RunConfig, classes: int) -> None:
    """Check that every attack of the run, the final ones too, can attack such a model, with steps that are long enough.

    Args:
        config: of the run.
        classes: number of logits, 2 or more.

    Raises:
        FedShieldError: one of them needs more classes, or longer steps.
    """
    check_reach(config, training=True)
    check_classes((*config.evaluate.attacks, *config.final_attacks(classes)), classes)


def try_own_attacks(config: RunConfig, model: nn.Module, classes: int) -> None:
    """Call each of the user's attacks once on two images; one without a form in L2 is then found before training.

    Args:
        config: of the run.
        model: as it is trained, on its device.
        classes: its number of logits.

    Raises:
        FedShieldError: an attack raises, leaves the ball, or changes the model.
    """
    device, shape = next(model.parameters()).device, (2, 3, config.data.side, config.data.side)
    images = torch.from_numpy(rng_for(config.seed, "try").random(shape, np.float32)).to(device)
    specs = [AttackSpec.parse(label) for label in (*config.evaluate.attacks, *config.final_attacks(classes))]
    tried = [(OF_EVALUATION, spec.name, spec.within(evaluation_threat(config))) for spec in specs]
    for key, name, threat in dict.fromkeys([("attack.name", config.attack.name, threat_of(config)), *tried]):
        if is_user_code(name):
            build_attack(name, model, threat, classes, key)(images, torch.tensor([0, classes - 1], device=device))


def check_reach(config: RunConfig, training: bool) -> None:
    """Check that in L2 the steps of every attack together reach the radius; the defaults are made for Linf.

    Args:
        config: of the run.
        training: whether the training attack and the attacks after a round are run too, not the final ones alone.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    attack, evaluate = config.attack, config.evaluate
    if attack.norm != L2:
        return
    names = [name for name, _ in attack.mixture] if attack.name == "mixture" else [attack.name]
    trained = [attack.steps] if training and ITERATED.intersection(names) else []
    labels = (*(evaluate.attacks if training else ()), *config.final_attacks())
    measured = [spec.steps for spec in map(AttackSpec.parse, labels) if spec.name in ITERATED]
    for key, step, steps in (
        ("attack.step-255", attack.step_255, trained),
        ("evaluate.step-255", evaluate.step_255, measured),
    ):
        if steps and step * min(steps) < attack.epsilon_255:
            raise FedShieldError(
                f"{key} = {step:g}: in attack.norm = l2, {min(steps)} steps of this length do not reach "
                f"attack.epsilon-255 = {attack.epsilon_255:g}; set {key}={2.5 * attack.epsilon_255 / min(steps):.4g} "
                "(2.5 epsilon / steps) or more steps"
            )


def tell_small_radius(config: RunConfig) -> None:
    """Warn of an L2 radius that only fits Linf, such as the default."""
    attack = config.attack
    if attack.norm == L2 and 0 < attack.epsilon_255 < _SMALL_L2:
        log.warning(
            "warning: attack.epsilon-255 = %g: with attack.norm = l2 the whole image moves by %s, hardly at all; the "
            "usual radius is attack.epsilon-255=127.5",
            *(attack.epsilon_255, radius(attack.epsilon_255, L2)),
        )


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
        log.info(
            "federation.adversarial-clients = %g: %d of %d clients train adversarially (%s), the others naturally",
            *(config.federation.adversarial_clients, len(able), config.federation.clients, some([*map(str, able)], 20)),
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


def _check_deployed(config: RunConfig) -> None:
    """Check what is different where the clients are real and not simulated."""
    if config.byzantine.clients:
        raise FedShieldError(
            f"byzantine.clients = {config.byzantine.clients}: only fedshield run can make clients lie; use it, or set "
            "byzantine.clients=0"
        )
    if config.train.attack_precision == "auto":
        log.warning(
            "train.attack-precision = auto: each client decides by its own processor, and other processors compute "
            "other values; set it to train or bfloat16 to avoid that"
        )
    if config.results.resume and not config.threads:
        log.warning(
            "threads = 0: each client uses all its cores; with another number of cores it computes slightly different "
            "values (in the last digits); set threads to the same number everywhere to avoid that"
        )
