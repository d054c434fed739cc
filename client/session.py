"""What a process needs to train the clients of one run: built once, used for every message."""

from functools import lru_cache

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from common.config import RunConfig, parse_config
from common.flat import Flat
from common.records import to_record, to_state
from common.seeding import seed_for
from common.setup import make_loss, make_model, prepare_data, prepare_torch, schedule_of
from common.training import FitResult, Trainer

Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Session:
    """Data, network and optimizer buffers of one run.

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
        self._trainer = Trainer(self._model)

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
        schedule = schedule_of(self.config, self.config.train.local_epochs, server_round, self.config.federation.rounds)
        images, labels = own.images, own.labels
        if shared is not None:
            images, labels = np.concatenate([images, shared[0]]), np.concatenate([labels, shared[1]])
        seed = seed_for(self.config.seed, "train", server_round, client)
        loss = make_loss(self.config, self._model, labels, len(self.splits.train.classes))
        result = self._trainer.fit(images, labels, loss, schedule, seed)
        return to_record(self._model.state_dict()), result


def session_for(run_config: Flat) -> Session:
    """Return this process's session of a run; another configuration takes its place."""
    return _session(tuple(run_config.items()))


@lru_cache(maxsize=1)
def _session(run_config: tuple[tuple[str, object], ...]) -> Session:
    return Session(parse_config(dict(run_config)))
