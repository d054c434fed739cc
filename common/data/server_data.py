"""What the server of a federation holds: its test, shared and validation images."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.datasets import Dataset, Splits
from common.data.draws import balanced_subset
from common.data.partition import Indices, Partition, balanced_part


@dataclass(frozen=True)
class ServerData:
    """What the server holds, and what it knows of the clients' data: how many images of each class each has.

    Attributes:
        test: the test set.
        shared: what every client receives; may be empty.
        validation: images that nobody trains on, by which the best model is chosen; may be empty.
        pool: out of which the shared images are taken; may be empty.
        described_partition: the content of ``partition.json``; see ``describe_partition``.
    """

    test: Dataset
    shared: Dataset
    validation: Dataset
    pool: Dataset
    described_partition: dict[str, Any]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Own training images of each class at each client, [clients, classes]."""
        return np.array(self.described_partition["clients"], dtype=np.int64)

    def slice(self, fraction: float, seed: int) -> Indices:
        """Return the rows of the pool that ``sharing.fraction`` takes; a smaller slice is contained in a larger one."""
        return balanced_part(np.arange(len(self.pool.labels)), self.pool.labels, fraction, seed, "shared")

    def held_out(self, count: int, seed: int, fraction: float) -> Dataset:
        """Return images on which no client trains, balanced over the classes: for validation, else of the pool.

        Args:
            count: how many; fewer where there are fewer, none where there are none; 0 for all.
            seed: of the draw, >= 0; of the run.
            fraction: the largest share of the pool that clients receive.
        """
        if len(self.validation.labels):
            return self.validation.take(balanced_subset(self.validation.labels, count, seed, "held-out"))
        unsent = np.setdiff1d(np.arange(len(self.pool.labels)), self.slice(fraction, seed))
        return self.pool.take(unsent[balanced_subset(self.pool.labels[unsent], count, seed, "held-out")])


def take_server_data(splits: Splits, division: Partition) -> ServerData:
    """Return the server's part of a dataset that is all on this machine."""
    train = splits.train
    shared, validation, pool = map(train.take, (division.shared, division.validation, division.pool))
    described = {**describe_partition(train, division), "test": class_counts(splits.test)}
    return ServerData(splits.test, shared, validation, pool, described)


def class_counts(data: Dataset, rows: Indices | None = None) -> list[int]:
    """Return how many images there are of each class, in all of a dataset or in some of its rows."""
    labels = data.labels if rows is None else data.labels[rows]
    return [int(count) for count in np.bincount(labels, minlength=len(data.classes))]


def describe_partition(train: Dataset, division: Partition) -> dict[str, Any]:
    """Return images per class of every client, of the pool, of the shared data and of the validation images.

    ``used`` of the ``available`` training images are in one of these; a limit has left out the others, and only then
    there is ``available-by-class``. A digest of all the indices tells whether two runs had the same division. Without
    validation images they are not mentioned, as in the runs of earlier versions, which can still be continued.
    """
    digest = hashlib.sha256()
    used = sum(map(len, (*division.shards, division.pool, division.validation)))
    held_out = [division.validation] if len(division.validation) else []
    for rows in (*division.shards, division.pool, division.shared, *held_out):
        digest.update(rows.tobytes() + b"|")

    return {
        "used": used,
        "available": len(train.labels),
        **({"available-by-class": class_counts(train)} if used < len(train.labels) else {}),
        "classes": list(train.classes),
        "clients": [class_counts(train, shard) for shard in division.shards],
        "pool": class_counts(train, division.pool),
        "shared": class_counts(train, division.shared),
        **({"validation": class_counts(train, division.validation)} if held_out else {}),
        "sha256": digest.hexdigest(),
    }
