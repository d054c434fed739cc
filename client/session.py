"""What a process needs to train the clients of one run: built once, used for every message."""

from functools import lru_cache

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from common.config import RunConfig, parse_config
from common.flat import Flat
from common.losses import LOSSES, LossContext
from common.records import to_record, to_state
from common.seeding import seed_for
from common.setup import make_model, prepare_data, prepare_torch, threat_of
from common.training import FitResult, Schedule, Trainer

Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Session:
    """Data, network, loss and optimizer buffers of one run.

    A client leaves no trace for the next one: weights and buffers are overwritten, and every random number is drawn
    from the client's own seed.

    Args:
        config: of the run.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        device = prepare_torch(config.threads)
        self.splits, self.division = prepare_data(config)
        self._model = make_model(config, len(self.splits.train.classes)).to(device)
        settings = config.train
        context = LossContext(config.attack.name, threat_of(config), settings.label_smoothing, settings.noise_std)
        self._trainer = Trainer(self._model, LOSSES[config.loss.name](self._model, context))

    def train(
        self, client: int, server_round: int, arrays: ArrayRecord, shared: Examples | None
    ) -> tuple[ArrayRecord, FitResult]:
        """Train the global model on one client's shard followed by the shared data.

        Args:
            client: its number.
            server_round: counted from 1.
            arrays: the global model.
            shared: images uint8 [S,3,H,W] and labels int64 [S], or None.

        Returns:
            The trained weights, and what was done.
        """
        self._model.load_state_dict(to_state(arrays))
        own = self.splits.train.take(self.division.shards[client])
        settings = self.config.train
        schedule = Schedule(
            epochs=settings.local_epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.rate_in(server_round),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            augment=settings.augment,
            precision=settings.precision,
        )
        images, labels = own.images, own.labels
        if shared is not None:
            images, labels = np.concatenate([images, shared[0]]), np.concatenate([labels, shared[1]])
        seed = seed_for(self.config.seed, "train", server_round, client)
        result = self._trainer.fit(images, labels, schedule, seed)
        return to_record(self._model.state_dict()), result


def session_for(run_config: Flat) -> Session:
    """Return this process's session of a run; another configuration takes its place."""
    return _session(tuple(run_config.items()))


@lru_cache(maxsize=1)
def _session(run_config: tuple[tuple[str, object], ...]) -> Session:
    return Session(parse_config(dict(run_config)))
