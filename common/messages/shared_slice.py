"""The globally shared images as a record, and their cache on a machine: they are sent to it once."""

import hashlib
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from common.data.array_cache import Arrays, find_arrays, keep_arrays
from common.data.datasets import Dataset
from common.errors import FedShieldError
from common.messages.protocol import IMAGES, LABELS
from common.messages.records import LiveArray
from common.paths import cache_dir

Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]

_NAMES = (IMAGES, LABELS)
_kept: dict[str, Arrays] = {}  # by digest; of the run that this process works for


def shared_record(shared: Dataset) -> ArrayRecord:
    """Serialize the globally shared images and labels."""
    record = ArrayRecord()
    record[IMAGES], record[LABELS] = LiveArray(shared.images), LiveArray(shared.labels)
    return record


def shared_digest(record: ArrayRecord) -> str:
    """Return the SHA-256 of the shared data, by which server and clients name it."""
    return _digest(_arrays(record))


def keep_shared(record: ArrayRecord, digest: str) -> None:
    """Store received shared data for later rounds: once for all clients of a machine.

    Raises:
        FedShieldError: it does not match ``digest``, or cannot be stored.
    """
    arrays = _arrays(record)
    if _digest(arrays) != digest:
        raise FedShieldError("the shared data did not arrive as it was sent (wrong digest); it will be sent again")

    def stored() -> Arrays | None:  # by another client, or damaged; comparing is quicker than another digest
        there = find_arrays(_place(digest), _NAMES)
        same = there is not None and all(np.array_equal(there[name], arrays[name]) for name in _NAMES)
        return there if same else None

    _remember(digest, keep_arrays(_place(digest), lambda: arrays, stored))


def find_shared(digest: str) -> Examples | None:
    """Return stored shared images and labels, or None when this machine does not hold them whole.

    They are read and checked once in a process, and stay mapped from disk.
    """
    if digest not in _kept:
        there = find_arrays(_place(digest), _NAMES)
        if there is None or _digest(there) != digest:
            return None
        _remember(digest, there)
    return _kept[digest][IMAGES], _kept[digest][LABELS]


def _remember(digest: str, arrays: Arrays) -> None:
    _kept.clear()
    _kept[digest] = arrays


def _arrays(record: ArrayRecord) -> Arrays:
    return {name: record[name].numpy() for name in _NAMES}


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in _NAMES:
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _place(digest: str) -> Path:
    return cache_dir() / "shared" / digest
