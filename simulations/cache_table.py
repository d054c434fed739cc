"""``fedshield cache``: what is kept of decoded images, and its removal."""

import shutil

from common.errors import explain_os_errors
from common.paths import cache_dir
from simulations.run_table import size_text, total_size

# Folders of the cache that are made again when they are needed. Nothing else is touched: FEDSHIELD_CACHE may be a
# folder of other things too, and what `fedshield.run` has written of a notebook's objects (given) is not made again.
_PARTS = {
    "datasets": "decoded datasets",
    "owners": "whose each training image is",
    "partitions": "which client has which images",
    "parts": "decoded directories of fedshield split-data",
    "shared": "slices of the pool that clients have received",
}


def cache_lines() -> list[str]:
    """Return a line about each part of the cache, and their sum."""
    lines, whole = [], 0
    for name, what in _PARTS.items():
        folder = cache_dir() / name
        with explain_os_errors(folder):
            count = sum(entry.is_dir() for entry in folder.iterdir()) if folder.is_dir() else 0
        size = total_size(folder)
        whole += size
        lines.append(f"{name:<12}{size_text(size):>9}  {count:>5}  {what}")
    return [*lines, f"{'all':<12}{size_text(whole):>9}"]


def clear_cache() -> int:
    """Delete what is in the cache, and return how many bytes that were.

    Raises:
        FedShieldError: it cannot be deleted.
    """
    size = 0
    for name in _PARTS:
        folder = cache_dir() / name
        with explain_os_errors(folder):
            size += total_size(folder)
            if folder.is_dir():
                shutil.rmtree(folder)
    return size
