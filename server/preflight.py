"""May this run start? All checks of its configuration before the first round."""

import logging

from common.attacks.threat import ITERATED, check_step, given_steps
from common.config.flat import Flat
from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.factory import check_user_code, make_federated_method
from common.methods.feddynat import FedDynAT
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


def check_reach(config: RunConfig, training: bool) -> None:
    """Check that the steps of every attack together reach the radius: in L2, for which the defaults are not made.

    In Linf, a line doubts steps whose unit was most likely not meant.

    Args:
        config: of the run.
        training: whether the training attack and the attacks after a round are run too, not the final ones alone.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    attack, evaluate = config.attack, config.evaluate
    names = [name for name, _ in attack.mixture] if attack.name == "mixture" else [attack.name]
    trained = [attack.steps] if training and ITERATED.intersection(names) else []
    labels = (*(evaluate.attacks if training else ()), *config.final_attacks())
    for key, step, steps in (
        ("attack.step-255", attack.step_255, trained),
        ("evaluate.step-255", evaluate.step_255, given_steps(labels)),
    ):
        if doubt := check_step(key, step, steps, attack.epsilon_255, attack.norm):
            log.warning("warning: %s", doubt)


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
