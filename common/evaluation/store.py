"""Results of an evaluation so far, on disk, so that an interrupted one continues where it was."""

import hashlib
import logging
import math
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from common.errors import explain_os_errors
from common.files import clear_leftovers, writing
from common.paths import sources_digest

Arrays = dict[str, NDArray[Any]]

log = logging.getLogger("fedshield")

# Tells whoever listens what was just kept: the group's name, and its ``arrays``; a terminal shows it as progress.
SAVED = logging.getLogger("fedshield.kept")
SAVED.setLevel(logging.DEBUG)
SAVED.propagate = False

_CODE = (
    "common/models/activations.py",
    "common/attacks/expectation.py",
    "common/attacks/l2.py",
    "common/attacks/library.py",
    "common/attacks/minimal.py",
    "common/attacks/threat.py",
    "common/models/external.py",
    "common/evaluation/evaluate.py",
    "common/attacks/cw_linf.py",
    "common/models/networks.py",
    "common/models/modes.py",
    "common/seeding.py",
    "common/training/trainer.py",
)  # what changes figures
_LARGEST = 2**28  # bytes of a group; eight examples of 512×512 pixels have an eighth of it


class ArrayStore:
    """Named groups of arrays in one folder, one compressed file each.

    A group is replaced as a whole, so that a process that is killed at any moment leaves the old or the new one.

    Args:
        folder: made when the first group is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(
        self, name: str, without: str = "its figures are computed again", fits: Callable[[Arrays], bool] = bool
    ) -> Arrays | None:
        """Return a group of arrays, or None when it is not there or is damaged.

        Args:
            name: of the group.
            without: what the caller does if it is damaged, for the log.
            fits: returns whether the caller can use the arrays; if not, they count as damaged.
        """
        path = self._path(name)
        try:
            _check_sizes(path)
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            if fits(arrays):
                return arrays
        except FileNotFoundError:
            return None
        except Exception as error:  # a malicious archive can raise anything
            log.debug("%s: %s", path, error)
        log.info("%s: damaged; %s", path, without)
        return None

    def _path(self, name: str) -> Path:
        return self.folder / f"{quote(name, safe='')}.npz"  # a user's attack has a path in its name

    def save(self, name: str, arrays: Arrays) -> None:
        """Replace a group of arrays.

        Raises:
            FedShieldError: the folder cannot be written.
        """
        with explain_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.folder)
        with writing(self._path(name)) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        SAVED.debug("%s", name, extra={"arrays": arrays})


def _check_sizes(path: Path) -> None:
    """Check that arrays are as large as their file says, and not too large, before any of them is read into memory."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > _LARGEST:
            raise ValueError(f"unpacks to more than {_LARGEST} bytes")
        for member in members:
            with archive.open(member) as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError("not as NumPy writes it here")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                    raise ValueError(f"{member.filename} is not as large as its header says")


def digest_of(decided: object, arrays: Arrays) -> str:
    """Return a digest of everything that decides the figures of an evaluation: inputs, code and libraries.

    Args:
        decided: settings; its ``repr`` counts.
        arrays: weights, images and labels, by name.
    """
    digest = hashlib.sha256(f"{decided!r} torch {version('torch')} torchattacks {version('torchattacks')}".encode())
    digest.update(sources_digest(*_CODE))
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
