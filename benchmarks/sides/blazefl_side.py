"""BlazeFL's side of ``same_work``: the FedAvg that comes with it, in one process or in a pool of processes.

It is made for Python 3.14. Before that, one annotation names its own class while this is being made; a placeholder is
all that it needs. Its pool then starts its processes as 3.14 does.
"""

import builtins
import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.sides import work

if sys.version_info < (3, 14):
    vars(builtins)["RandomStateSnapshot"] = object
    multiprocessing.set_start_method("forkserver", force=True)

from blazefl.contrib.fedavg import (  # type: ignore[import-not-found]
    FedAvgBaseClientTrainer,
    FedAvgBaseServerHandler,
    FedAvgProcessPoolClientTrainer,
)


class Shards:
    """The clients' images, in memory that all processes share."""

    def __init__(self, shards: list[tuple[Tensor, Tensor]]) -> None:
        self.sizes = [len(labels) for _, labels in shards]
        self.images, self.labels = (torch.cat(parts) for parts in zip(*shards, strict=True))
        for tensor in (self.images, self.labels):
            tensor.share_memory_()  # type: ignore[no-untyped-call]

    def get_dataloader(self, type_: str, cid: int, batch_size: int, generator: torch.Generator) -> DataLoader[Any]:
        """Return one client's batches."""
        first = sum(self.sizes[:cid])
        rows = slice(first, first + self.sizes[cid])
        data = TensorDataset(self.images[rows], self.labels[rows])
        return DataLoader(data, batch_size, shuffle=True, generator=generator)

    def set_dataset(self, type_: str, cid: int, dataset: object) -> None:
        """Keep nothing: the images stay as they are."""


class Networks:
    """Makes a network."""

    def select_model(self, name: str) -> work.Network:
        """Return the network of the benchmark."""
        return work.Network()


def main() -> None:
    """Train, and print one JSON line."""
    options = work.read_options()
    shards, clock = Shards(work.read_shards(options)), work.Clock()
    same: dict[str, Any] = {
        "model_selector": Networks(),
        "model_name": "cnn2",
        "dataset": shards,
        "device": "cpu",
        "num_clients": options.clients,
        "batch_size": work.BATCH,
        "seed": 0,
    }
    server = FedAvgBaseServerHandler(**same, global_round=options.rounds, sample_ratio=options.cohort / options.clients)
    with tempfile.TemporaryDirectory() as states:
        training = {**same, "epochs": 1, "lr": work.LEARNING_RATE}
        trainer = (
            FedAvgBaseClientTrainer(**training)
            if options.workers == 1
            else FedAvgProcessPoolClientTrainer(**training, state_dir=Path(states), num_parallels=options.workers)
        )
        while not server.is_stopped():
            trainer.local_process(server.downlink_package(), server.sample_clients())
            for package in trainer.uplink_package():
                server.load(package)
            clock.tick()
    work.finish(clock, work.accuracy(server.model, options))


if __name__ == "__main__":
    main()
