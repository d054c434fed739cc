"""Paths as a user writes them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import FedShieldError


def whole_path(given: Path | str, hint: str = "write the whole path") -> Path:
    """Return an absolute path, with the home folder that ``~`` or ``~name`` stands for.

    Raises:
        FedShieldError: there is no such home folder, or no working directory to begin at.
    """
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as error:
        raise FedShieldError(f"{given}: this system knows no such home folder; {hint}") from error
    except OSError as error:
        raise FedShieldError(f"{given}: the working directory is gone; go to another one") from error


@contextmanager
def some_home() -> Iterator[None]:
    """Give a library that looks for the home folder as it is imported a name for one, where the user has none."""
    if os.path.expanduser("~") != "~":
        yield
        return
    os.environ["HOME"] = "/nonexistent"
    try:
        yield
    finally:
        del os.environ["HOME"]
