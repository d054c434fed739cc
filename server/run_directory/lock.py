"""Whether a process writes to a run, or measures its model: it holds a lock in the run's directory."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import FedShieldError, explain_os_errors


def is_running(path: Path) -> bool:
    """Return whether a process writes to the run in this directory; false where this user could not."""
    if not (path / ".lock").exists():
        return False
    try:
        with FileLock(path / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def written_to(path: Path) -> FedShieldError:
    """Return the error of a run to which another process writes."""
    return FedShieldError(f"{path}: another process is writing to this run; wait for it to end")


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


@contextmanager
def measured(path: Path) -> Iterator[None]:
    """Keep a run from being deleted while this process measures it; others may measure it too.

    Args:
        path: of its directory.
    """
    place = path / "evaluations" / f"{uuid.uuid4().hex}.lock"
    with explain_os_errors(place):
        place.parent.mkdir(exist_ok=True)
        lock = FileLock(place)
        lock.acquire(timeout=0)
    try:
        yield
    finally:
        lock.release()
        place.unlink(missing_ok=True)


def refuse_measured(path: Path) -> None:
    """Refuse a run that another process measures.

    Raises:
        FedShieldError: one does.
    """
    for place in (path / "evaluations").glob("*.lock"):
        with explain_os_errors(place):
            try:
                FileLock(place).acquire(timeout=0).lock.release()
            except Timeout as error:
                raise FedShieldError(f"{path}: another process measures this run; wait for it to end") from error
