"""Models of the clients' own: what must be known before the first round."""

import logging

from torch import nn

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.methods.checks import names_that_stay
from common.methods.method import Method

log = logging.getLogger("fedshield")


def check_personal(config: RunConfig, method: Method) -> None:
    """Refuse settings that make no sense with personal models.

    Args:
        config: of the run.
        method: of the federation.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    if method.personal and config.data.validation_fraction > 0:
        raise FedShieldError(
            f"data.validation-fraction = {config.data.validation_fraction:g}: it chooses a round by the global model, "
            f"but the clients' own models (method.name = {config.method.name}) are those of the last round; set it to 0"
        )


def tell_what_stays(method: Method, model: nn.Module) -> None:
    """Tell what the global model lacks.

    Args:
        method: of the federation.
        model: its network.

    Raises:
        FedShieldError: the network has no such arrays.
    """
    if stays := names_that_stay(method, model):
        log.info(
            "method.name = %s: %d of %d arrays stay with the clients; the global model keeps their initial values, so "
            "look at the clients' own models, which are measured after the last round",
            *(method.name, len(stays), len(model.state_dict())),
        )
