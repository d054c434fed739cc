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
    """Turn an ``OSError`` from work on a file, or a ``MemoryError``, into a one-line ``FedShieldError``.

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
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "free some disk space, or write elsewhere"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "check the permissions, or choose another place"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            hint = "a file has the place of a folder; remove it, or choose another place"
        elif error.errno == errno.ELOOP:
            hint = "it is a link; replace it by the file itself"
        else:
            hint = "check the path and the free disk space" if path or error.filename else "try it again"
        place = path or error.filename or "this command"
        raise FedShieldError(f"{place}: {error.strerror or error}; {hint}") from error


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
