"""Model weights, shared data and metrics as Flower's records: the only part of ``common`` that knows Flower."""

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from common.data import Dataset, cache_dir
from common.errors import explain_os_errors

State = dict[str, Tensor]


def to_record(state: State) -> ArrayRecord:
    """Serialise a state dict."""
    return ArrayRecord({name: tensor.detach().cpu() for name, tensor in state.items()})


def to_state(record: ArrayRecord) -> State:
    """Read a state dict back; the tensors are copies, on the CPU."""
    return cast(State, record.to_torch_state_dict())


def shared_record(shared: Dataset) -> ArrayRecord:
    """Serialise the globally shared images and labels."""
    return ArrayRecord({"images": Array(shared.images), "labels": Array(shared.labels)})


def shared_digest(record: ArrayRecord) -> str:
    """Return the SHA-256 of the shared data, by which server and clients name it."""
    digest = hashlib.sha256()
    for name in ("images", "labels"):
        array = record[name].numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def keep_shared(record: ArrayRecord) -> None:
    """Store received shared data for later rounds: one file for all clients of a machine, replaced atomically."""
    digest = shared_digest(record)
    if find_shared(digest) is not None:
        return
    path = _shared_path(digest)
    buffer = io.BytesIO()
    np.savez(buffer, images=record["images"].numpy(), labels=record["labels"].numpy())
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(buffer.getvalue())
        partial.replace(path)


def find_shared(digest: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Return stored shared images and labels, or None when this machine does not hold them whole."""
    try:
        with np.load(_shared_path(digest)) as file:
            return file["images"], file["labels"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _shared_path(digest: str) -> Path:
    return cache_dir() / "shared" / f"{digest}.npz"
