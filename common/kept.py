"""What an evaluation has found so far, on disk, so that an interrupted one goes on where it was."""

import hashlib
import logging
import os
import zipfile
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from common.errors import explain_os_errors

log = logging.getLogger("fedshield")

_CODE = (
    "activations.py",
    "attacks.py",
    "borrowed.py",
    "evaluation.py",
    "margin.py",
    "models.py",
    "seeding.py",
    "training.py",
)  # what changes figures


class Kept:
    """Named groups of arrays in one folder, one compressed file each.

    A group is replaced as a whole, so that a process that is killed at any moment leaves the one before it.

    Args:
        folder: made when the first group is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(
        self, name: str, without: str = "its figures are computed again", wanted: Sequence[str] = ()
    ) -> dict[str, NDArray[Any]] | None:
        """Return a group of arrays, or None when it is not there or is damaged.

        Args:
            name: of the group.
            without: what the caller does without a damaged one, for the log.
            wanted: arrays without which it is damaged; it is all of them that come back.
        """
        path = self._path(name)
        try:
            with np.load(path, allow_pickle=False) as file:
                return {key: file[key] for key in wanted or file.files}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
            log.info("%s: damaged; %s", path, without)
            return None

    def _path(self, name: str) -> Path:
        return self.folder / f"{quote(name, safe='')}.npz"  # a user's attack has a path in its name

    def save(self, name: str, arrays: dict[str, NDArray[Any]]) -> None:
        """Replace a group of arrays.

        Raises:
            FedShieldError: the folder cannot be written.
        """
        path = self._path(name)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.partial")  # two processes may evaluate the same model
        with explain_os_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    np.savez_compressed(file, allow_pickle=False, **arrays)
                partial.replace(path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise


def digest_of(decided: object, arrays: dict[str, NDArray[Any]]) -> str:
    """Return a name for everything that decides the figures of an evaluation: what is given, the code, the libraries.

    Args:
        decided: settings; its ``repr`` counts.
        arrays: weights, images and labels, by name.
    """
    digest = hashlib.sha256(f"{decided!r} torch {version('torch')} torchattacks {version('torchattacks')}".encode())
    for name in _CODE:
        digest.update(Path(__file__).with_name(name).read_bytes())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
