"""Data that Ray's workers may lack on their machines, as object references: sent only to those that need it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import Message

from common.config.data_tables import DataConfig
from common.config.schema import RunConfig
from common.data.datasets import Dataset, Splits, adopt_data, data_key
from common.factory import prepare_data
from common.messages.protocol import SHARED
from common.messages.shared_slice import find_shared, keep_shared, shared_digest


@dataclass(frozen=True)
class Supply:
    """What goes to a worker with every client, in case it is on another machine.

    Attributes:
        data: which dataset.
        key: its name in the cache.
        splits: reference to the decoded dataset.
        shared: digest of the shared data and a reference to its record; None before any was sent.
    """

    data: DataConfig
    key: str
    splits: Any
    shared: tuple[str, Any] | None = None

    def take(self) -> None:
        """Let this process use what the server's machine has, where its own machine lacks it."""
        import ray

        data = self.data
        adopt_data(data.name, data.root, data.image_size, self.key, lambda: ray.get(self.splits), data.resize)
        if self.shared is not None and find_shared(self.shared[0]) is None:
            keep_shared(ray.get(self.shared[1]), self.shared[0])


class Supplies:
    """The server's side.

    Args:
        config: of the run.
        ray: the module, connected.
    """

    def __init__(self, config: RunConfig, ray: Any) -> None:
        self._ray = ray
        data = config.data
        key = data_key(data.name, data.root, data.image_size, data.resize)
        self._supply = Supply(data, key, ray.put(_in_memory(prepare_data(config)[0])))

    def for_messages(self, messages: Sequence[Message]) -> Supply:
        """Return what goes with these messages: a client may come to a machine that has not seen the shared data."""
        records = (message.content.array_records.get(SHARED) for message in messages)
        shared = next((record for record in records if record is not None), None)
        if shared is not None:
            self._supply = replace(self._supply, shared=(shared_digest(shared), self._ray.put(shared)))
        return self._supply


def _in_memory(splits: Splits) -> Splits:
    """Return the same arrays as plain ones: Ray would copy arrays mapped from disk twice."""
    train, test = (
        Dataset(np.asarray(part.images), np.asarray(part.labels), part.classes) for part in (splits.train, splits.test)
    )
    return Splits(train, test)
