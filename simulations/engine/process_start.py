"""Starts the process that forks the workers: from this one, or a new one.

A process that has used OpenMP's threads cannot be forked, and a network is computed with them. So what a command starts
with is forked before it computes; then torch and the rest, seconds of work, are imported once for all.
"""

import os
import signal
import socket
import struct
import sys
import threading
import traceback
from importlib import import_module

from common.paths import python_path

STATUS = struct.Struct("=ii")
"""What the process that forks tells of a worker that has ended: its id, and its exit status or minus its signal."""


def start(module: str, near: socket.socket, far: socket.socket) -> int:
    """Start a process that does what the ``main`` of a module does; return its id.

    Args:
        module: its full name.
        near: this side of the connection with the process.
        far: the other side, whose descriptor ``main`` is given.
    """
    # What another thread holds at this moment, such as a notebook's, would stay locked in a fork.
    alone = threading.active_count() == 1 and "torch" not in sys.modules
    return _fork(module, near, far) if alone else _spawn(module, far)


def _fork(module: str, near: socket.socket, far: socket.socket) -> int:
    import_all()
    if process := os.fork():
        return process
    try:
        near.close()
        os.setsid()  # the terminal's Ctrl-C is for the first process, which ends the others
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        import_module(module).main(far.fileno())
    except ConnectionError:  # the first process has ended
        pass
    except Exception:  # also a worker's own
        traceback.print_exc()
    finally:
        os._exit(1)


def _spawn(module: str, far: socket.socket) -> int:
    far.set_inheritable(True)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-c", f"from {module} import main; main({far.fileno()})"],
        {**os.environ, "PYTHONPATH": python_path()},
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setsid=True,
    )


def import_all() -> None:
    """Import what every client needs."""
    import torchattacks  # noqa: F401

    from client import app, tasks  # noqa: F401
