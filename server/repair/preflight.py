"""May this run be repaired? What has to hold before the first round."""

import logging

from common.config.schema import RunConfig
from common.data.server_data import ServerData
from common.errors import FedShieldError
from common.factory import make_federated_method
from common.user_code import is_user_code
from server.diagnosis.rounds import held_out
from server.run_directory.reader import CENTRALIZED, Kind

log = logging.getLogger("fedshield")


def check_repair(config: RunConfig, kind: Kind) -> None:
    """Refuse what repair cannot work with, and tell which of its actions cannot be taken.

    Args:
        config: of the run.
        kind: of the run.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    if not config.repair.enabled:
        return
    for wrong in obstacles(config, kind):
        raise FedShieldError(f"repair.enabled: {wrong}, or repair.enabled=false")
    federation, repair, sharing = config.federation, config.repair, config.sharing
    if repair.sharing_budget > sharing.fraction and not (sharing.pool_fraction or config.data.name == "split"):
        raise FedShieldError(
            f"repair.sharing-budget = {repair.sharing_budget:g}: there is no pool to send more of "
            "(sharing.pool-fraction = 0); raise it, or set repair.sharing-budget=0"
        )
    if 0 < repair.sharing_budget < sharing.fraction:
        raise FedShieldError(
            f"repair.sharing-budget = {repair.sharing_budget:g}: the clients receive more from the first round on "
            f"(sharing.fraction = {sharing.fraction:g}); raise it to that or more, or set it to 0"
        )
    if repair.quarantine and federation.min_replies == federation.cohort:
        log.info(
            "repair: no client can be set aside, since all %d replies of a round are needed (federation.min-fraction = "
            "%g); lower it for repair.quarantine to have an effect",
            *(federation.cohort, federation.min_fraction),
        )


def obstacles(config: RunConfig, kind: Kind) -> list[str]:
    """Return what stands in the way of repair, with what to set; no code of the user's is run."""
    if kind == CENTRALIZED:
        return ["repair is for federations; run it with fedshield run"]
    found = []
    if not config.diagnosis.enabled:
        found.append("there is nothing to act on with diagnosis.enabled = false; set it to true")
    if is_user_code(config.method.name) or (method := make_federated_method(config)).keeps or method.combines():
        found.append(
            f"method.name = {config.method.name} keeps arrays of its own, which would not fit a model from earlier "
            "rounds; set another method"
        )
    if config.method.fine_tune_epochs:
        found.append(
            f"method.fine-tune-epochs = {config.method.fine_tune_epochs}: what follows the last round knows nothing of "
            "an end before it, nor of other settings; set method.fine-tune-epochs=0"
        )
    if config.train.average != "none":
        found.append(f"train.average = {config.train.average} would average models that were given up; set none")
    if config.privacy.noise_multiplier > 0:
        found.append("it looks at single updates, which privacy.* is to hide; set privacy.noise-multiplier=0")
    if config.repair.sharing_budget > 0 and config.sharing.kind != "images":
        found.append(f"only images can grow, not sharing.kind = {config.sharing.kind}; set repair.sharing-budget=0")
    return found


def check_sight(config: RunConfig, data: ServerData) -> None:
    """Refuse a run whose models cannot be judged on images, before clients are waited for.

    Args:
        config: of the run.
        data: the server's images.

    Raises:
        FedShieldError: as ``check_repair``.
    """
    if config.repair.enabled and not len(held_out(config, data).labels):
        budget = " and repair.sharing-budget" if config.repair.sharing_budget else ""
        raise FedShieldError(
            "repair.enabled: there are no held-out images to judge the model on; set data.validation-fraction above 0, "
            f"or sharing.fraction{budget} below 1, or repair.enabled=false"
        )
