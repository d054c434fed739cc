"""Other processes: who they are, what they have computed, and ports for them."""

import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path


def family(found: set[int]) -> list[int]:
    """Return processes and all that they have started."""
    parents = live_parents()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found = found | more
    return sorted(found)


def with_environment(setting: str) -> list[int]:
    """Return the live processes whose environment has a setting, ``NAME=value``."""
    return sorted(pid for pid in live_parents() if setting.encode() in _environment(pid))


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return what processes have computed, and the children that they have waited for, in seconds."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended while we looked
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def live_parents() -> dict[int, int]:
    """Return the parent of every live process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = _stat(int(entry.name))[:2]
            except OSError:  # it ended while we looked
                continue
            if state not in "ZX":
                found[int(entry.name)] = int(parent)
    return found


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.kill(pid, number)


def _stat(pid: int) -> list[str]:
    """Return what Linux tells of a process after its name, which may hold anything: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it ended, or is not ours
        return []
