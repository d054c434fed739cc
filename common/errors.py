"""The one exception for everything a user can mend."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FedShieldError(Exception):
    """A mistake or a lack that the user can mend.

    The message is one line that names the key, the file or the client, says what was found and what to do.
    """


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` from work on ``path``, or a lack of memory for it, into a one-line ``FedShieldError``."""
    try:
        yield
    except MemoryError as error:
        raise FedShieldError(f"{path}: too large for the memory of this machine; look at what it is") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "free some disk space, or write elsewhere"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "check the permissions, or choose another place"
        elif error.errno == errno.ELOOP:
            hint = "it is a link; put the file itself there"
        else:
            hint = "check the path and the free disk space"
        raise FedShieldError(f"{path}: {error.strerror or error}; {hint}") from error


def is_text(words: str) -> bool:
    """Tell whether words can be written down: a file's name, and an argument, may have bytes that are no letters."""
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True
