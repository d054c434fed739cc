"""Objects for another process of this machine: each in a file without a name, whose descriptor goes through a socket.

Through the socket goes one byte, so sending does not wait for the other side, which may hang, and nothing arrives in
part. Arrays are written as they are, and read in place. The memory is free as soon as nobody has the file open or uses
its arrays.
"""

import contextlib
import os
import pickle
import socket
import struct
import tempfile
from typing import Any

_ALIGNMENT = 64  # bytes


def pack(value: object) -> int:
    """Write an object into a new file; return its descriptor, which the caller closes."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(body), *(buffer.raw() for buffer in buffers)]
    descriptor = _new_file()
    with open(descriptor, "wb", closefd=False) as file:
        file.write(struct.pack(f"<{len(parts) + 1}Q", len(parts), *map(len, parts)))
        for part in parts:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            file.write(part)
        file.seek(0)  # for who receives the descriptor
    return descriptor


def _new_file() -> int:
    """Return the descriptor of a file without a name: in memory, or where Python or the system has no such, on disk."""
    with contextlib.suppress(AttributeError, OSError):
        return os.memfd_create("fedshield")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def send(far: socket.socket, descriptor: int) -> None:
    """Send a packed object; one that is sent to several processes is packed once."""
    socket.send_fds(far, [b"."], [descriptor])


def receive(near: socket.socket) -> Any:
    """Wait for an object and return it; its arrays are read in place.

    Raises:
        EOFError: the other side has ended.
    """
    try:
        _, descriptors, _, _ = socket.recv_fds(near, 1, 1)
    except ConnectionError:
        descriptors = []
    if not descriptors:
        raise EOFError
    try:
        return _unpack(_mapped(descriptors[0]))
    finally:
        os.close(descriptors[0])


def _mapped(descriptor: int) -> memoryview:
    """Return what is in a file, in place. Python's own mmap would keep the file open, and few may be open at once."""
    import torch  # here: who starts the workers must not have used it

    size = os.fstat(descriptor).st_size
    return torch.from_file(f"/proc/self/fd/{descriptor}", size=size, dtype=torch.uint8).numpy().data.toreadonly()


def _unpack(data: memoryview) -> Any:
    (count,) = struct.unpack_from("<Q", data)
    lengths = struct.unpack_from(f"<{count}Q", data, 8)
    parts, place = [], 8 * (count + 1)
    for length in lengths:
        place += -place % _ALIGNMENT
        parts.append(data[place : place + length])
        place += length
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  # from a process of our own
