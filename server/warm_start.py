"""The warm start: the first global model has already learned from the shared pool."""

import logging
import math

from torch import nn

from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.errors import DeadEndError, FedShieldError
from common.factory import check_batches, make_method, make_model, make_trainer, training_plan
from common.models.networks import load_state
from common.seeding import seed_for
from server.run_directory.restored import with_first_precision

log = logging.getLogger("fedshield")

_KEY = "sharing.warm-start-epochs"


def warm_start(config: RunConfig, model: nn.Module, pool: Dataset) -> None:
    """Train the initial model on all of the pool before round 1 (Zhao et al. 2018, arXiv 1806.00582, section 4.2).

    The server trains as a client does: by ``loss.name`` and its attack, at the learning rate of round 1. It costs the
    passes of so many epochs over the pool, once.

    Args:
        config: of the run.
        model: with its initial weights; takes those after the warm start.
        pool: the server's images.

    Raises:
        FedShieldError: there is no pool, or its images cannot be trained on; or training has diverged.
    """
    if (epochs := config.sharing.warm_start_epochs) == 0:
        return
    if len(pool.labels) == 0:
        raise FedShieldError(f"{_KEY} = {epochs}: the server has no pool to train on; set {_KEY}=0")
    log.info("warm start: the server trains for %d epochs on the %d images of its pool", epochs, len(pool.labels))
    trained = make_model(config, len(pool.classes)).to(next(model.parameters()).device)
    load_state(trained, model.state_dict())  # given ones, perhaps
    check_batches(config, trained, len(pool.labels) == 1)
    method = make_method(with_first_precision(config), trained, len(pool.classes))
    plan = training_plan(config, epochs, 1, config.federation.rounds)
    loss, seed = method.loss_for(pool.labels), seed_for(config.seed, "warm-start")
    result = make_trainer(trained, config, method).fit(pool.images, pool.labels, loss, plan, seed)
    if not math.isfinite(result.loss):
        raise DeadEndError(
            f"{_KEY} = {epochs}: its training loss is {result.loss}; start a new run with a lower train.learning-rate"
        )
    log.info("warm start: loss %.3f  %.1f s", result.loss, result.seconds)
    model.load_state_dict(trained.state_dict())
