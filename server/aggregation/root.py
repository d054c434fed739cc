"""The server's pool as a root of trust: images that no client can have changed, to judge the clients' models by."""

import numpy as np
import torch
from flwr.app import ArrayRecord

from common.attacks.library import attack_mode
from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.factory import make_method, make_model, make_trainer, training_plan
from common.messages.records import to_record, to_state
from common.models.networks import load_state
from common.seeding import rng_for, seed_for
from common.training.trainer import pixels

_BATCH = 500


class Root:
    """Trains on the pool as a client does on its images, and measures models on it.

    Args:
        config: of the run.
        pool: the server's images, one or more.
        device: to compute on.
    """

    def __init__(self, config: RunConfig, pool: Dataset, device: torch.device) -> None:
        self._config, self._pool = config, pool
        model = make_model(config, len(pool.classes)).to(device)
        self._method = make_method(config, model, len(pool.classes))
        self._trainer = make_trainer(model, config, self._method)

    def train(self, model: ArrayRecord, server_round: int, images: int) -> ArrayRecord:
        """Return what a client with images of the pool would send, by the local loss alone.

        Args:
            model: the global one.
            server_round: from 1.
            images: how many to train on, drawn anew in each round; all, if there are fewer.
        """
        config, trainer = self._config, self._trainer
        drawn = rng_for(config.seed, "root", server_round).permutation(len(self._pool.labels))[:images]
        pool = self._pool.take(np.sort(drawn))
        load_state(trainer.model, to_state(model))
        plan = training_plan(config, config.train.local_epochs, server_round, config.federation.rounds)
        loss, seed = self._method.loss_for(pool.labels), seed_for(config.seed, "root", server_round)
        trainer.fit(pool.images, pool.labels, loss, plan, seed)
        return to_record(trainer.model.state_dict())

    def loss(self, model: ArrayRecord) -> float:
        """Return the mean of the training loss over the pool, in eval mode: under the training attack, that is."""
        network, pool, total = self._trainer.model, self._pool, 0.0
        load_state(network, to_state(model))
        loss, device = self._method.loss_for(pool.labels), next(network.parameters()).device
        torch.manual_seed(seed_for(self._config.seed, "root"))  # the same attack's starts and noise for every model
        with attack_mode(network):
            for start in range(0, len(pool.labels), _BATCH):
                rows = np.arange(start, min(start + _BATCH, len(pool.labels)))
                labels = torch.from_numpy(pool.labels[rows]).to(device)
                total += float(loss(pixels(pool.images[rows], device), labels).detach()) * len(rows)
        return total / len(pool.labels)
