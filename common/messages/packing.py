"""Packs all arrays of a message into one: Flower sends each array separately, and a network has a hundred of them.

Nothing here imports torch: the process that Flower starts for each message must not wait for that.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray
from safetensors.numpy import load, save

_NAME = "safetensors"


def pack(content: RecordDict) -> RecordDict:
    """Return the same content, with one array of bytes in the place of each record of arrays."""
    packed = {name: _packed(record) for name, record in content.array_records.items()}
    return RecordDict({**content, **packed})


def is_packed(content: RecordDict) -> bool:
    """Return whether ``pack`` has made this content, as far as can be seen without unpacking it."""
    return any(list(record) == [_NAME] for record in content.array_records.values())


def unpack(content: RecordDict, make: Callable[[NDArray[Any]], Array] = Array) -> RecordDict:
    """Undo ``pack``; records that it has not made stay as they are.

    Args:
        content: of a message.
        make: makes a record's array from its values, which may not be writable.

    Raises:
        Exception: the bytes, which may be anybody's, are not what ``pack`` makes.
    """
    unpacked = {
        name: _unpacked(record[_NAME], make)
        for name, record in content.array_records.items()
        if list(record) == [_NAME]
    }
    return RecordDict({**content, **unpacked})


def _packed(record: ArrayRecord) -> ArrayRecord:
    # The format sorts by name: the numbers keep the order.
    values = {
        f"{place:06} {name}": np.asarray(array.numpy(), order="C") for place, (name, array) in enumerate(record.items())
    }
    return ArrayRecord({_NAME: Array(np.frombuffer(save(values), np.uint8))})


def _unpacked(array: Array, make: Callable[[NDArray[Any]], Array]) -> ArrayRecord:
    record = ArrayRecord()
    for name, values in sorted(load(array.numpy().tobytes()).items()):
        record[name.partition(" ")[2]] = make(values)
    return record
