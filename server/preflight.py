"""May this run start? All that is asked of its configuration before its first round."""

import logging

from common.attacks.library import check_classes
from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.factory import check_user_code
from server.aggregation.robust import check_strategy
from server.run_directory.reader import CENTRALIZED, DEPLOYED, Kind

log = logging.getLogger("fedshield")


def check_settings(config: RunConfig, kind: Kind) -> None:
    """Check what can be wrong in a configuration, before any data is read.

    Args:
        config: of the run.
        kind: of the run; centralised training has no strategy and no division among clients.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    if kind != CENTRALIZED:
        check_strategy(config.strategy, config.federation.cohort)
    check_user_code(config)
    if kind == DEPLOYED:
        _check_deployed(config)
    if kind != CENTRALIZED:
        config.check_division()


def check_attacks(config: RunConfig, classes: int) -> None:
    """Check that every attack of the run, those after the last round too, can attack a model of so many classes.

    Args:
        config: of the run.
        classes: number of logits, 2 or more.

    Raises:
        FedShieldError: one of them needs more classes.
    """
    check_classes((*config.evaluate.attacks, *config.evaluate.final_attacks), classes)


def _check_deployed(config: RunConfig) -> None:
    """Check what is different where the clients are real and not simulated."""
    if config.byzantine.clients:
        raise FedShieldError(
            f"byzantine.clients = {config.byzantine.clients}: only fedshield run can make clients lie; use it, or set "
            "byzantine.clients=0"
        )
    if config.results.resume and not config.threads:
        log.warning(
            "threads = 0: each client uses all its cores; with another number of cores it computes slightly different "
            "values (in the last digits)"
        )
