"""A process that lives on from message to message, and keeps the network, its buffers and the data.

Flower's network clients start a process for each message, which would import torch and build everything each time. The
first of them starts this process; later ones hand their message over to it and wait. It ends with the SuperNode, or
when there was nothing to do for a while. Nothing here imports torch before it must.
"""

import contextlib
import hashlib
import logging
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, RecordDict

from client.supernode.sockets import short_name
from common.errors import FedShieldError
from common.paths import python_path

log = logging.getLogger("fedshield")

FOLDER = "FEDSHIELD_SUPERNODE"  # where fedshield-supernode tells its processes of a folder that is theirs alone
_START_SECONDS = 300.0  # for imports, on a machine that is busy
_IDLE_SECONDS = 900.0
_POLL_SECONDS = 1.0


def over_network() -> bool:
    """Return whether this process was started by Flower for one message, which may come from an untrusted server."""
    return Path(sys.argv[0]).name == "flwr-clientapp"


def is_used() -> bool:
    """Return whether the worker does what this process is asked; ``FEDSHIELD_RESIDENT=0`` switches this off."""
    return over_network() and os.environ.get("FEDSHIELD_RESIDENT") != "0" and hasattr(socket, "AF_UNIX")


def request(
    task: str,
    content: RecordDict,
    run_config: Mapping[str, Any],
    node_config: Mapping[str, Any],
    state: RecordDict,
) -> tuple[RecordDict, RecordDict] | None:
    """Let the worker do a task of ``client.tasks``, and start it if there is none.

    Args:
        task: a key of ``client.tasks.TASKS``.
        content: of the message.
        run_config: flat, of the run.
        node_config: of the client; see ``common.messages.protocol``.
        state: what Flower keeps for the client.

    Returns:
        The reply's content and the new state, or None when no such process could be started.

    Raises:
        FedShieldError: what the task has raised, or no result within ``federation.client-timeout-seconds``.
    """
    place = _place(os.getppid())
    connection = None if place is None else _connect(place) or _start(place)
    if place is None or connection is None:
        log.warning("could not start a process that stays between messages: this process does the work itself")
        return None
    patience = float(run_config["federation.client-timeout-seconds"])
    with connection:
        try:
            if not _send(connection, (task, content, dict(run_config), dict(node_config), state), patience) or (
                not connection.poll(patience)
            ):
                _end(place)
                raise FedShieldError(f"no result within federation.client-timeout-seconds = {patience:g}")
            how, what = connection.recv()
        except (EOFError, OSError) as error:
            raise FedShieldError(f"the training process has died ({type(error).__name__})") from error
    if how == "mistake":
        raise FedShieldError(what)
    if how == "error":
        raise RuntimeError(what)
    done: tuple[RecordDict, RecordDict] = what
    return done


def _send(connection: Connection, message: object, patience: float) -> bool:
    """Send a message; return whether the other side has read it in time, as one that hangs does not."""
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(patience), 0))
    try:
        connection.send(message)
    except BlockingIOError:
        return False
    return True


def _private_folder() -> Path | None:
    """Return a folder that no other user can enter: the SuperNode's, the user's own, or one in the temporary folder.

    Whoever can enter it receives the model, and can send what is unpickled. In the temporary folder, another user may
    have made a folder or a link of that name first.
    """
    for given in (os.environ.get(FOLDER), os.environ.get("XDG_RUNTIME_DIR")):
        if given and _is_private(Path(given)):
            return Path(given)
    made = Path(tempfile.gettempdir()) / f"fedshield-{os.getuid()}"
    with contextlib.suppress(OSError):
        made.mkdir(mode=0o700)
    if _is_private(made):
        return made
    log.warning("%s: not a folder that only this user can enter; remove it", made)
    return None


def _is_private(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def _place(supernode: int) -> Path | None:
    """Return the socket of a SuperNode's worker, or None where no folder is safe."""
    if (folder := _private_folder()) is None:
        return None
    # Another version of the app has a place of its own, and so has a SuperNode with the number of an earlier process.
    born = _stat(supernode)[19:20]
    name = hashlib.sha256(f"{Path(__file__).resolve()} {supernode} {born}".encode()).hexdigest()[:16]
    return folder / f"fedshield-{name}"


def _stat(process: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the state on (number 19 is the start); empty if there are none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _connect(place: Path) -> Connection | None:
    near = socket.socket(socket.AF_UNIX)
    try:
        with short_name(place) as name:
            near.connect(name)
    except OSError:
        near.close()
        return None
    return Connection(near.detach())


def _start(place: Path) -> Connection | None:
    """Start the process; None when it does not come up."""
    place.unlink(missing_ok=True)
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", __name__, str(place), str(os.getppid())],
        env={**os.environ, "PYTHONPATH": python_path()},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    _number(place).write_text(str(process.pid))
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if (connection := _connect(place)) is not None:
            return connection
        time.sleep(0.05)
    return None


def _end(place: Path) -> None:
    """End a process that gives no result; the next message starts another."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(_number(place).read_text()), signal.SIGKILL)
    place.unlink(missing_ok=True)


def _number(place: Path) -> Path:
    return place.with_suffix(".pid")


def serve(place: Path, supernode: int) -> None:
    """Do one task after the other until the SuperNode ends, or there was nothing to do for a while."""
    with socket.socket(socket.AF_UNIX) as listener:
        with short_name(place) as name:
            listener.bind(name)
        listener.listen()
        listener.settimeout(_POLL_SECONDS)
        idle_since = time.monotonic()
        while is_alive(supernode) and time.monotonic() - idle_since < _IDLE_SECONDS:
            try:
                far, _ = listener.accept()
            except TimeoutError:
                continue
            far.setblocking(True)
            with (
                Connection(far.detach()) as connection,
                contextlib.suppress(EOFError, OSError),
            ):  # nobody is waiting any more
                connection.send(_answer(*connection.recv()))
            idle_since = time.monotonic()
    for path in (place, _number(place)):
        path.unlink(missing_ok=True)


def _answer(task: str, content: RecordDict, run_config: Any, node_config: Any, state: RecordDict) -> tuple[str, Any]:
    try:
        from client.tasks import TASKS

        done = TASKS[task](content, run_config, node_config, state)
    except FedShieldError as error:
        return "mistake", str(error)
    except Exception as error:
        log.exception("a client failed")
        return "error", f"{type(error).__name__}: {error}"
    for records in (done, state):
        for name, record in records.array_records.items():
            # Flower's own arrays: to read ours, the process that waits would have to import torch.
            records[name] = ArrayRecord({key: Array(array.numpy()) for key, array in record.items()})
    return "done", (done, state)


def is_alive(process: int) -> bool:
    """Return whether a process runs; one that has ended may stay in the table until its parent asks."""
    if Path("/proc/self/stat").exists():
        return _stat(process)[:1] not in ([], ["Z"], ["X"])
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and another user's
        pass
    return True


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
