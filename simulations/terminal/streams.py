"""Standard streams that never end a command: a closed pipe, a full disk or a poor encoding is survived."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Let a command run to its end whatever happens to its standard output and error.

    A character that the output's encoding lacks is escaped. What cannot be written is lost, with one message. A
    reader that has seen enough, such as ``head``, is no error; a full disk is one: exit status 0 then becomes 1.
    """
    for number in range(3):  # or the next file that is opened would get this number, and all that is printed
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    out, error = _Lasting(1, sys.stdout, _tell), _Lasting(2, sys.stderr)
    if sys.stdout is sys.__stdout__:  # not where tests listen
        sys.stdout = out
    if sys.stderr is sys.__stderr__:
        sys.stderr = error
    try:
        yield
    except SystemExit as end:
        sys.stdout.flush()
        if not end.code and out.lost is not None and out.lost.errno != errno.EPIPE:
            sys.exit(1)
        raise


class _Lasting(io.TextIOWrapper):
    """A stream that takes everything, and drops what it cannot write.

    Args:
        number: its file descriptor; from the first failure on it leads nowhere.
        before: the stream that this one replaces.
        told: is called once, with the reason why nothing more is written.
    """

    def __init__(
        self, number: int, before: TextIO | None, told: Callable[[OSError], None] = lambda error: None
    ) -> None:
        raw = io.FileIO(number, "wb", closefd=False)
        encoding = "utf-8" if before is None else before.encoding
        super().__init__(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True)
        self._number, self._told = number, told
        self.lost: OSError | None = None

    def write(self, text: str, /) -> int:
        """Write, or drop, some text."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Write, or drop, what is buffered."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        self.lost = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._number)
        os.close(nowhere)
        super().flush()
        self._told(error)


def _tell(error: OSError) -> None:
    gone = error.errno == errno.EPIPE
    told = "the output of this command is no longer read" if gone else f"standard output: {error.strerror}"
    print(f"fedshield: {told}; the command continues without it", file=sys.stderr)  # noqa: T201
