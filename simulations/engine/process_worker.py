"""The other side of ``process_executor``: a process that has imported everything, and forks the workers.

A fork takes milliseconds, and the workers share the memory of what was imported. It is safe because this process never
computes; see ``process_start``.
"""

import contextlib
import gc
import os
import queue
import signal
import socket
import threading
import traceback
from typing import Any

from flwr.app import RecordDict

from simulations.engine.executor import message_of, run_client
from simulations.engine.parcels import pack, receive, send
from simulations.engine.process_start import STATUS, import_all


def serve(near: socket.socket) -> None:
    """Run one client after the other. When the other side ends, so does this process, even while a client trains.

    What comes is the content of several messages or, as a tuple, one job, without its content if that is the last one.
    """
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                orders.put(receive(near))
        except EOFError:
            pass
        except BaseException:  # of which nobody would hear
            traceback.print_exc()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()
    _answer(near, os.getpid())  # ready
    common: Any = None
    while True:
        order = orders.get()
        if isinstance(order, RecordDict):
            common = order
            continue
        metadata, context, content = order
        _answer(near, run_client(message_of(common if content is None else content, metadata), context))


def _answer(near: socket.socket, value: object) -> None:
    descriptor = pack(value)
    with contextlib.suppress(ConnectionError):  # the other side has ended, and this process is about to
        send(near, descriptor)
    os.close(descriptor)


def main(descriptor: int) -> None:
    """Fork a worker for each socket that comes through this one, until the other side ends; tell how each ended."""
    control = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGCHLD, lambda number, frame: _tell_ended(control))
    import_all()
    gc.freeze()  # or a worker's first collection would copy all pages
    while descriptors := socket.recv_fds(control, 1, 1)[1]:
        near = socket.socket(fileno=descriptors[0])
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            os.setsid()  # a busy Linux divides its cores among sessions: together, the workers would get one share
            serve(near)
        near.close()


def _tell_ended(control: socket.socket) -> None:
    """Send the id and the exit status of each worker that has ended."""
    with contextlib.suppress(ChildProcessError):  # none is left
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with contextlib.suppress(OSError):  # nobody reads it any more
                control.send(STATUS.pack(ended[0], os.waitstatus_to_exitcode(ended[1])), socket.MSG_DONTWAIT)
