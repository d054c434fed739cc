"""Unix sockets in folders of any depth. Nothing here imports more than it must: Flower's commands start with it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 100  # bytes; the system allows 107 on Linux, 103 on macOS


@contextmanager
def short_name(place: Path) -> Iterator[str]:
    """Yield a name under which a socket can be bound or reached, however long its path is.

    A socket's path has 108 bytes at most, and a temporary folder may be deeper than that.
    """
    if len(os.fsencode(place)) <= _LONGEST or not hasattr(os, "O_PATH"):
        yield str(place)
        return
    folder = os.open(place.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{place.name}"
    finally:
        os.close(folder)
