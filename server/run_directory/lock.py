"""Whether a process writes to a run: it holds the lock of its directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import FedShieldError, explain_os_errors


def is_running(path: Path) -> bool:
    """Return whether a process writes to the run in this directory."""
    if not (path / ".lock").exists():
        return False
    try:
        with explain_os_errors(path), locked(path):
            return False
    except FedShieldError:
        return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let no other process write to a run.

    Args:
        path: of its directory.

    Raises:
        FedShieldError: one does.
    """
    try:
        with FileLock(path / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise FedShieldError(f"{path}: this run goes on; stop it first, with Ctrl-C where it was started") from error
