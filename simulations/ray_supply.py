"""What Ray's workers may lack on their machines, handed over as object references: sent only where it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Message

from common.config import DataConfig, RunConfig
from common.data import adopt_data, data_key
from common.records import find_shared, keep_shared, shared_digest
from common.setup import prepare_data


@dataclass(frozen=True)
class Supply:
    """What a worker is told with every client.

    Attributes:
        data: which dataset.
        key: its name in the cache.
        splits: reference to the decoded dataset; None where all workers have this machine's cache.
        shared: digest of the shared data and a reference to its record; None like ``splits``, or before any was sent.
    """

    data: DataConfig
    key: str
    splits: Any = None
    shared: tuple[str, Any] | None = None

    def take(self) -> None:
        """Let this process use what the server's machine has, where its own machine lacks it."""
        import ray

        data = self.data
        adopt_data(data.name, data.root, data.image_size, self.key, lambda: ray.get(self.splits))
        if self.shared is not None and find_shared(self.shared[0]) is None:
            keep_shared(ray.get(self.shared[1]), self.shared[0])


class Supplies:
    """The server's side.

    Args:
        config: of the run.
        ray: the module, connected.
        far: whether workers may run on other machines.
    """

    def __init__(self, config: RunConfig, ray: Any, far: bool) -> None:
        self._ray, self._far = ray, far
        data = config.data
        splits = prepare_data(config)[0]  # decodes, so that no worker has to
        key = data_key(data.name, data.root, data.image_size)
        self._supply = Supply(data, key, ray.put(splits) if far else None)

    def for_messages(self, messages: Sequence[Message]) -> Supply:
        """Return what goes with these messages: a client may come to a machine that has not seen the shared data."""
        records = (message.content.array_records.get("shared") for message in messages)
        shared = next((record for record in records if record is not None), None)
        if shared is not None and self._far:
            self._supply = replace(self._supply, shared=(shared_digest(shared), self._ray.put(shared)))
        return self._supply
