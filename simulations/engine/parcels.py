"""Objects for another process of this machine: each in a file without a name, whose descriptor goes through a socket.

Through the socket goes one byte, so sending does not wait for the other side, which may hang, and nothing arrives in
part. Arrays are written as they are, and can be read in place. The memory is free as soon as nobody has the file open.
"""

import mmap
import os
import pickle
import socket
import struct
from typing import Any

_ALIGNMENT = 64  # bytes


def pack(value: object) -> int:
    """Write an object into a new file in memory; return its descriptor, which the caller closes."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(body), *(buffer.raw() for buffer in buffers)]
    descriptor = os.memfd_create("fedshield")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(struct.pack(f"<{len(parts) + 1}Q", len(parts), *map(len, parts)))
        for part in parts:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            file.write(part)
        file.seek(0)  # for who receives the descriptor
    return descriptor


def send(far: socket.socket, descriptor: int) -> None:
    """Send a packed object; one that is sent to several processes is packed once."""
    socket.send_fds(far, [b"."], [descriptor])


def receive(near: socket.socket, *, in_place: bool = False) -> Any:
    """Wait for an object and return it.

    Args:
        near: where it comes.
        in_place: its arrays stay in the file, which stays open as long as there are any; else they are copied.

    Raises:
        EOFError: the other side has ended.
    """
    try:
        _, descriptors, _, _ = socket.recv_fds(near, 1, 1)
    except ConnectionError:
        descriptors = []
    if not descriptors:
        raise EOFError
    with open(descriptors[0], "rb") as file:
        data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if in_place else file.read()
    return _unpack(memoryview(data))


def _unpack(data: memoryview) -> Any:
    (count,) = struct.unpack_from("<Q", data)
    lengths = struct.unpack_from(f"<{count}Q", data, 8)
    parts, place = [], 8 * (count + 1)
    for length in lengths:
        place += -place % _ALIGNMENT
        parts.append(data[place : place + length])
        place += length
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  # from a process of our own
