"""The one exception for everything a user can mend."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 500  # letters of what somebody else has said


class FedShieldError(Exception):
    """A mistake or a lack that the user can mend.

    The message is one line that names the key, the file or the client, says what was found and what to do.
    """


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` from work on ``path`` into a one-line ``FedShieldError``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "free some disk space, or write elsewhere"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "check the permissions, or choose another place"
        else:
            hint = "check the path and the free disk space"
        raise FedShieldError(f"{path}: {error.strerror or error}; {hint}") from error


def in_one_line(words: str) -> str:
    """Return what somebody else has said as a log takes it that is read by lines, and a terminal that obeys escapes."""
    shown = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."
