"""May this run start? All checks of its configuration before the first round."""

import logging

import numpy as np
import torch
from torch import nn

from common.attacks.library import OF_EVALUATION, build_attack, check_classes
from common.attacks.threat import ITERATED, L2, AttackSpec
from common.config.flat import Flat
from common.config.schema import RunConfig
from common.errors import DeadEndError, FedShieldError
from common.factory import (
    check_user_code,
    evaluation_threat,
    make_federated_method,
    make_method,
    threat_of,
)
from common.methods.feddynat import FedDynAT
from common.models.modes import keep_modes, keep_statistics
from common.seeding import rng_for
from common.user_code import is_user_code
from server.aggregation.rules import RULES, ByPool, check_strategy, no_pool
from server.aggregation.selection import Cohort, check_selection
from server.personal import check_personal
from server.privacy import check_privacy
from server.repair.preflight import check_repair
from server.run_directory.index import rounds_before
from server.run_directory.reader import CENTRALIZED, DEPLOYED, Kind
from server.run_directory.restored import same_settings

log = logging.getLogger("fedshield")


def check_settings(config: RunConfig, kind: Kind) -> None:
    """Check what can be wrong in a configuration, before any data is read.

    Args:
        config: of the run.
        kind: of the run; centralized training has no strategy and no division among clients.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    if config.results.resume:
        _tell_other_images(same_settings(config, kind), config)
    if kind != CENTRALIZED:
        check_strategy(config.strategy, config.federation.cohort)
        by_pool = isinstance(RULES.get(config.strategy.name), ByPool)
        if by_pool and config.sharing.pool_fraction == 0 and config.data.name != "split":
            raise no_pool(config.strategy)
    check_user_code(config)
    if kind == DEPLOYED:
        _check_deployed(config)
    check_privacy(config, kind)
    check_repair(config, kind)
    _check_average(config, kind)
    if kind != CENTRALIZED:
        check_selection(config.federation)
        _check_method(config)
        config.check_division()


def _tell_other_images(stored: Flat, config: RunConfig) -> None:
    before, now = stored.get("diagnosis.examples"), config.diagnosis.examples
    if rounds_before(config) and before not in (None, now):
        log.info("diagnosis.examples = %s so far, %d now: on other images", before, now)


def _check_average(config: RunConfig, kind: Kind) -> None:
    train, total = config.train, kind.total(config)
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


def try_model(config: RunConfig, kind: Kind, model: nn.Module, classes: int) -> None:
    """Check that every attack, the method and the user's own code can work with a network; it is left as it was.

    Args:
        config: of the run.
        kind: of the run.
        model: as it is trained, on its device.
        classes: its number of logits.

    Raises:
        FedShieldError: one line with the key, and the user's line where the mistake is there.
    """
    if classes < 2:
        raise FedShieldError(f"data.name = {config.data.name}: its images are all of one class; give two or more")
    check_attacks(config, classes)
    if kind != CENTRALIZED:
        make_federated_method(config).check(model)
    if kind != DEPLOYED:  # there the clients compute elsewhere
        try_own_loss(config, model, classes)
    try_own_attacks(config, model, classes)


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


def try_own_loss(config: RunConfig, model: nn.Module, classes: int) -> None:
    """Call the user's loss on two images, and on some more where it teaches nothing from two.

    Args:
        config: of the run.
        model: as it is trained, on its device; it is left as it was.
        classes: its number of logits.

    Raises:
        FedShieldError: it raises, returns no loss, changes the model, or teaches nothing from either batch.
    """
    if not is_user_code(config.loss.name):
        return
    more = list(range(min(classes, 16))) * 2  # a contrastive loss needs two images of a class
    gpus = [next(model.parameters()).device] if next(model.parameters()).is_cuda else []
    with keep_modes(model), keep_statistics(model), torch.random.fork_rng(gpus):
        loss = make_method(config, model.train(), classes).loss_for(np.arange(classes))
        for labels in ([0, classes - 1], more):
            value = loss(*_images(config, model, labels))
            if (fault := _fault(value, model)) is None:
                return
    raise DeadEndError(f"loss.name = {config.loss.name}: {fault}, on {len(more)} random images: nothing can be learned")


def _fault(loss: torch.Tensor, model: nn.Module) -> str | None:
    """Return why a step down a loss changes no weight, or makes them useless; None if it does neither."""
    if not loss.isfinite():
        return f"is {loss.item()}"
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    gradients = [gradient for gradient in found if gradient is not None]
    if not all(gradient.isfinite().all() for gradient in gradients):
        return "has a gradient that is not finite"
    if not any(gradient.any() for gradient in gradients):
        return "has no gradient with respect to the model's weights"
    return None


def _images(config: RunConfig, model: nn.Module, labels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random images for these labels, the same for the same seed, on the model's device."""
    device, shape = next(model.parameters()).device, (len(labels), 3, config.data.side, config.data.side)
    images = torch.from_numpy(rng_for(config.seed, "try").random(shape, np.float32)).to(device)
    return images, torch.tensor(labels, device=device)


def try_own_attacks(config: RunConfig, model: nn.Module, classes: int) -> None:
    """Call each of the user's attacks once on two images; one without a form in L2 is then found before training.

    Args:
        config: of the run.
        model: as it is trained, on its device.
        classes: its number of logits.

    Raises:
        FedShieldError: an attack raises, leaves the ball, or changes the model.
    """
    images, targets = _images(config, model, [0, classes - 1])
    specs = [AttackSpec.parse(label) for label in (*config.evaluate.attacks, *config.final_attacks(classes))]
    tried = [(OF_EVALUATION, spec.name, spec.within(evaluation_threat(config))) for spec in specs]
    for key, name, threat in dict.fromkeys([("attack.name", config.attack.name, threat_of(config)), *tried]):
        if is_user_code(name):
            build_attack(name, model, threat, classes, key)(images, targets)


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
