"""Named arrays in folders of the cache: written whole, and mapped into memory, so that a machine holds them once."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import FedShieldError, explain_os_errors

Arrays = dict[str, NDArray[Any]]


def cache_dir() -> Path:
    """Return the folder of the cache: ``$FEDSHIELD_CACHE``, or ``fedshield`` in the user's cache folder."""
    given = os.environ.get("FEDSHIELD_CACHE")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fedshield").expanduser().absolute()


def find_arrays(place: Path) -> Arrays | None:
    """Return the arrays kept in the folder ``place``, read-only and mapped from disk, or None when there is none.

    Raises:
        FedShieldError: what is there is damaged.
    """
    if not place.is_dir():
        return None
    try:
        return {path.stem: np.load(path, mmap_mode="r") for path in place.glob("*.npy")}
    except (OSError, ValueError, EOFError) as error:
        raise FedShieldError(f"{place}: this part of the cache is damaged ({error}); delete this folder") from error


def keep_arrays(place: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep arrays in the folder ``place``, instead of what is there; a reader finds all of them or none."""
    with explain_os_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=place.parent))
        try:
            for name, array in arrays.items():
                np.save(building / f"{name}.npy", array)
            if place.exists():
                shutil.rmtree(place)
            building.rename(place)
        finally:
            shutil.rmtree(building, ignore_errors=True)
