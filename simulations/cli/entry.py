"""Where ``fedshield`` begins and ends: a signal that comes before or after the command's own work is one line too.

The commands take half a second to import, so they are imported in ``main``.
"""

import os
import sys

try:
    import signal
    import threading
    import time
    from types import FrameType
except KeyboardInterrupt:
    os.write(2, b"fedshield: interrupted\n")
    os._exit(130)

_PATIENCE = 10  # seconds that threads of others may still work


def main() -> None:
    """Entry point: run the command line, and end even where code of others has left threads running."""
    _end_at_once()
    status = 1
    try:
        from simulations.cli.main import main as command_line

        command_line()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        _end_at_once()
        if _others():
            threading.Thread(target=_end_others, args=[status], daemon=True).start()


def _end_at_once() -> None:
    """Let Ctrl-C and SIGTERM end the process: nothing has begun, or everything is stored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # by a shell, in the background
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"fedshield: interrupted\n")
    os._exit(130)


def _others() -> list[threading.Thread]:
    """Return the threads that Python waits for before it ends."""
    return [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]


def _end_others(status: int) -> None:
    """End the process if such threads do not end: a user's network, loss or attack may have started them.

    Args:
        status: of the process.
    """
    time.sleep(_PATIENCE)
    if left := ", ".join(repr(thread.name) for thread in _others()):
        told = f"fedshield: has finished, and ends without the threads that still run after {_PATIENCE} s: {left}"
        try:
            sys.stdout.flush()
            print(told, file=sys.stderr, flush=True)  # noqa: T201
        finally:  # also where nobody reads any more
            os._exit(status)
