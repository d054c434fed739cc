"""The one exception for everything a user can fix."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FedShieldError(Exception):
    """A mistake that the user can fix, or something missing that the user can provide.

    The message is one line that names the key, the file or the client, says what was found and what to do.
    """


class DeadEndError(FedShieldError):
    """A mistake in what a run is made of: resumed as it is, the run would make it again."""


@contextmanager
def explain_os_errors(path: Path | None = None) -> Iterator[None]:
    """Turn what the system refuses into a one-line ``FedShieldError``: work on a file, memory, a library.

    Args:
        path: of the file; None if only the error names it.
    """
    try:
        yield
    except MemoryError as error:
        raise FedShieldError(
            f"{path or 'this command'}: too large for the memory of this machine; check what it is"
        ) from error
    except UnicodeEncodeError as error:  # of a name: what is in a file is UTF-8 everywhere
        raise FedShieldError(
            f"{path or error.object}: has characters that file names cannot have in this system's encoding "
            f"({error.encoding}); set LC_ALL=C.UTF-8"
        ) from error
    except (ImportError, RuntimeError) as error:  # of a library that cannot be loaded, and of torch
        if lacking := _lacking(str(error)):
            raise FedShieldError(f"{' '.join(str(error).split())}; {lacking}") from error
        raise
    except OSError as error:
        place = path or error.filename or "this command"
        hint = _lacking(str(error)) or _hint(error, bool(path or error.filename))
        raise FedShieldError(f"{place}: {error.strerror or error}; {hint}") from error


# What the system says, its loader of libraries, and torch.
_NO_MEMORY = ("failed to map segment from shared object", "cannot allocate memory", "can't allocate memory")
_NO_FILES = "too many open files"


def _lacking(reason: str) -> str:
    """Return what to do about too little memory or too few open files; empty where nothing says that it is these."""
    reason = reason.lower()
    if any(words in reason for words in _NO_MEMORY):
        return "not enough memory: raise the limit of this shell (ulimit -v) or of the container, or end other programs"
    if _NO_FILES in reason:
        return "raise the limit, for example with: ulimit -n 1024"
    return ""


def _hint(error: OSError, named: bool) -> str:
    """Return what to do about an error of the system.

    Args:
        error: with its number.
        named: whether it is about a file that is known.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some disk space, or write elsewhere"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "check the permissions, or choose another place"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "a file has the place of a folder; remove it, or choose another place"
    if error.errno == errno.ELOOP:
        return "it is a link; replace it by the file itself"
    return "check the path and the free disk space" if named else "try it again"


# For a name that is not ``is_text``: either the name is wrong, or the system's encoding for names.
RENAME = (
    "rename it"
    if sys.getfilesystemencoding() == "utf-8"
    else f"set LC_ALL=C.UTF-8, since names are {sys.getfilesystemencoding()} here, or rename it"
)


def is_text(words: str) -> bool:
    """Return whether a text can be encoded: a file's name, or an argument, may have bytes that are not text."""
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True
