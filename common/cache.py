"""Named arrays in folders of the cache: written whole, and mapped into memory, so that a machine holds them once."""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from common.errors import FedShieldError, explain_os_errors

Arrays = dict[str, NDArray[Any]]


def cache_dir() -> Path:
    """Return the folder of the cache: ``$FEDSHIELD_CACHE``, or ``fedshield`` in the user's cache folder."""
    given = os.environ.get("FEDSHIELD_CACHE")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fedshield").expanduser().absolute()


def find_arrays(place: Path, names: Collection[str]) -> Arrays | None:
    """Return the arrays of these names kept in the folder ``place``, read-only and mapped from disk.

    None when the folder is not there, lacks one of them, or holds a damaged one.
    """
    try:
        return {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in names}
    except (OSError, ValueError, EOFError):
        return None


def keep_arrays(place: Path, make: Callable[[], Arrays], find: Callable[[], Arrays | None]) -> Arrays:
    """Make arrays and keep them in the folder ``place``; of several processes, one does it and the others wait.

    Args:
        place: a folder of the cache; damaged contents are replaced.
        make: called when the arrays are not there.
        find: returns what is there, or None.

    Raises:
        FedShieldError: the folder cannot be written.
    """
    with explain_os_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if (found := find()) is None:
                _write(place, make())
                found = find()
    if found is None:
        raise FedShieldError(f"{place}: damaged as soon as it was written; check the disk")
    return found


def _write(place: Path, arrays: Arrays) -> None:
    """Write into a temporary folder, then rename: a reader finds all of the arrays or none."""
    building = Path(tempfile.mkdtemp(dir=place.parent))
    try:
        for name, array in arrays.items():
            np.save(building / f"{name}.npy", array)
        if place.exists():
            shutil.rmtree(place)
        building.rename(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)
