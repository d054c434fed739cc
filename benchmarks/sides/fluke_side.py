"""fluke's side of ``same_work``: its FedAvg, in memory, without evaluation.

Clients keep nothing between rounds (``persistency=False``), as FedShield's do; fluke's default would keep a network and
an optimizer for each of a thousand clients.
"""

import numpy as np
from fluke import FlukeENV  # type: ignore[import-not-found]
from fluke.algorithms.fedavg import FedAVG  # type: ignore[import-not-found]
from fluke.client import Client  # type: ignore[import-not-found]
from fluke.config import OptimizerConfigurator  # type: ignore[import-not-found]
from fluke.data import FastDataLoader  # type: ignore[import-not-found]
from fluke.server import Server  # type: ignore[import-not-found]
from fluke.utils import FederationObserver  # type: ignore[import-not-found]
from torch import nn

from benchmarks.sides import work


class Rounds(FederationObserver):  # type: ignore[misc]
    """Tells the clock when a round ends."""

    def __init__(self, clock: work.Clock) -> None:
        self.clock = clock

    def end_round(self, round: int) -> None:  # noqa: A002
        """Note the time."""
        self.clock.tick()


def main() -> None:
    """Train, and print one JSON line."""
    options = work.read_options()
    np.random.seed(0)  # noqa: NPY002  # which is what fluke draws from
    FlukeENV().set_eval_cfg(server=False)
    clients = [
        Client(
            index=number,
            train_set=FastDataLoader(*shard, num_labels=work.CLASSES, batch_size=work.BATCH, shuffle=True),
            test_set=None,
            optimizer_cfg=OptimizerConfigurator({"name": "SGD", "lr": work.LEARNING_RATE}),
            loss_fn=nn.CrossEntropyLoss(),
            local_epochs=1,
            persistency=False,
        )
        for number, shard in enumerate(work.read_shards(options))
    ]
    server = Server(work.Network(), None, clients, weighted=True)
    federation, clock = FedAVG(options.clients, None, {}, clients, server), work.Clock()
    federation.set_callbacks(Rounds(clock))
    federation.run(options.rounds, options.cohort / options.clients, finalize=False)
    work.finish(clock, work.accuracy(server.model, options))


if __name__ == "__main__":
    main()
