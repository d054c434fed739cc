"""Named arrays in folders of the cache: written whole, and mapped into memory, so that a machine holds them once."""

import errno
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from common.errors import FedShieldError, explain_os_errors

Arrays = dict[str, NDArray[Any]]

_PARTIAL = ".partial"
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)


def find_arrays(place: Path, names: Collection[str]) -> Arrays | None:
    """Return the arrays of these names kept in the folder ``place``, read-only and mapped from disk.

    None when the folder is not there, lacks one of them, or holds a damaged one.

    Raises:
        OSError: this process may not open more files, or lacks memory.
    """
    try:
        return {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in names}
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # nothing is wrong with the arrays
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
    with explain_os_errors(place), _explain_owner(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(place.parent)
        with FileLock(f"{place}.lock"):
            if (arrays := find()) is None:
                _write(place, make())
                arrays = find()
    if arrays is None:
        raise FedShieldError(f"{place}: damaged right after it was written; check the disk")
    return arrays


@contextmanager
def _explain_owner(folder: Path) -> Iterator[None]:
    """Say what to do where a folder of the cache is not for this user to write."""
    try:
        yield
    except OSError as error:
        place = Path(str(error.filename))
        ours = place.is_relative_to(folder) or folder.is_relative_to(place)  # of what was to be kept there
        if not ours or error.errno not in _NOT_OURS:
            raise
        raise FedShieldError(
            f"{place}: {error.strerror}: this is FedShield's cache; set FEDSHIELD_CACHE to a folder that you may "
            "write to, or ask the owner of this one for access"
        ) from error


def _write(place: Path, arrays: Arrays) -> None:
    """Write into another folder, then rename: a reader finds all of the arrays or none; ``place`` is locked."""
    building = _building(place)
    _remove(building)
    building.mkdir()
    try:
        for name, array in arrays.items():
            np.save(building / f"{name}.npy", array)
        _remove(place)
        building.rename(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _building(place: Path) -> Path:
    return place.with_name(f"{place.name}{_PARTIAL}")


def _clear_leftovers(folder: Path) -> None:
    """Remove what killed processes have left half built; who still builds holds the lock of the place."""
    for building in folder.glob(f"*{_PARTIAL}"):
        with suppress(OSError), FileLock(f"{str(building).removesuffix(_PARTIAL)}.lock", timeout=0):
            shutil.rmtree(building)


def _remove(place: Path) -> None:
    """Remove a folder, or a file of its name."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
