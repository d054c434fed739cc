"""A piece of network that can fail."""

import select
import socket
import threading
from typing import Self


class Relay:
    """Passes connections on to a port of this machine; while it is cut, nothing comes through and nothing is refused.

    That is what a broken line looks like from both ends: silence, not a closed connection.

    Args:
        target: port that connections are passed on to.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._whole = threading.Event()
        self._whole.set()
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._whole.set()
        self._listener.close()

    def cut(self) -> None:
        """Let nothing through any more."""
        self._whole.clear()

    def mend(self) -> None:
        """Let everything through again, what was held back first."""
        self._whole.set()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        self._whole.wait()
        try:
            with near, socket.create_connection(("127.0.0.1", self._target)) as far:
                other = {near: far, far: near}
                while not self._ended.is_set():
                    for source in select.select([near, far], [], [], 0.5)[0]:
                        data = source.recv(65536)
                        self._whole.wait()
                        if not data:
                            return
                        other[source].sendall(data)
        except OSError:  # one end has gone
            return
