"""Model weights as Flower's records, and back."""

import io
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import SType
from numpy.typing import NDArray
from torch import Tensor

from common.messages.protocol import ENGINE, FIRST_FAILURE
from common.models.networks import copies_on_cpu

State = dict[str, Tensor]


class LiveArray(Array):
    """Flower's ``Array``, serialized only when it has to leave the machine.

    Flower turns every array into bytes at once and back at each use. On one machine that is most of what a round
    without work costs: here the values stay an array, and Ray's workers read them in place from shared memory.

    Args:
        values: nobody may change them afterwards.
    """

    # Flower writes this name into what goes over the wire, and knows how to read an "Array" there.
    __qualname__ = "Array"

    def __init__(self, values: NDArray[Any]) -> None:
        self.dtype, self.shape, self.stype = str(values.dtype), tuple(values.shape), SType.NUMPY
        self.__dict__["_values"] = values

    def numpy(self) -> NDArray[Any]:
        """Return the values, not a copy of them."""
        values: NDArray[Any] = self.__dict__["_values"]
        return values

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The values as Flower's own ``Array`` stores them."""
        buffer = io.BytesIO()
        np.save(buffer, self.numpy(), allow_pickle=False)
        return buffer.getvalue()

    def __reduce__(self) -> tuple[Callable[[NDArray[Any]], "LiveArray"], tuple[NDArray[Any]]]:
        return _live, (self.numpy(),)


def _live(values: NDArray[Any]) -> LiveArray:
    """Make a LiveArray: pickle would look for the class under the name that Flower requires."""
    return LiveArray(values)


def record_of(arrays: Mapping[str, Array]) -> ArrayRecord:
    """Put arrays into a record as they are, where Flower's own constructor would turn each into bytes."""
    record = ArrayRecord()
    record.update(arrays)
    return record


def to_record(state: State) -> ArrayRecord:
    """Copy a state dict into a record."""
    copies = copies_on_cpu(state.values())
    return record_of({name: LiveArray(tensor.numpy()) for name, tensor in zip(state, copies, strict=True)})


def to_state(record: ArrayRecord) -> State:
    """Read a state dict back, for reading only: on the CPU the tensors may share the record's memory."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return {name: torch.from_numpy(array.numpy()) for name, array in record.items()}


def note_failure(content: RecordDict, reason: str) -> None:
    """Note in a reply's content that its client ran a second time, after ``reason`` had ended the first."""
    content[ENGINE] = ConfigRecord({FIRST_FAILURE: reason})


def first_failure(reply: Message) -> str | None:
    """Return what ``note_failure`` wrote, if anything."""
    note = reply.content.config_records.get(ENGINE, ConfigRecord()).get(FIRST_FAILURE)
    return None if note is None else str(note)


def array_bytes(content: RecordDict) -> int:
    """Return how many bytes the values of all arrays are, without what is around them; not for unchecked messages."""
    arrays = (array for record in content.array_records.values() for array in record.values())
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)
