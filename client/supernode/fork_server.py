"""Flower's SuperNode, whose processes start at once: ``fedshield-supernode``, with the options of flower-supernode.

Flower starts the command ``flwr-clientapp`` for each message, and that imports for seconds before it does anything.
Here a process has imported everything, and forks for each message. Without it, or where fork is not safe, Flower's
command is started.
"""

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from client.supernode.arguments import check_arguments
from client.supernode.flower_patches import forget_messages_of_ended_runs
from client.supernode.sockets import short_name
from client.supernode.superexec import fork_server_socket, keep_others_out
from client.supernode.superlink_check import check_line, hold_on
from client.supernode.worker import FOLDER, is_alive
from common.errors import FedShieldError
from common.paths import python_path
from common.words import visible

_POLL_SECONDS = 1.0


def supernode() -> None:
    """Entry point of ``fedshield-supernode``."""
    from flwr.supernode.cli import flower_supernode

    try:
        check_arguments(sys.argv[1:])
        superexec = _own_superexec()
        check_line(sys.argv[1:])
    except FedShieldError as error:
        sys.exit(f"fedshield-supernode: {visible(str(error))}")
    forget_messages_of_ended_runs()
    hold_on()
    with tempfile.TemporaryDirectory(prefix="fedshield-supernode-") as name:  # no other user can enter it
        folder = Path(name)
        (folder / "flower-superexec").symlink_to(superexec)  # a link: nothing can be executed in many a /tmp
        os.environ |= {"PATH": os.pathsep.join([name, os.environ["PATH"]]), FOLDER: name}
        keep_others_out(folder)
        if sys.platform == "linux":
            command = [
                sys.executable,
                "-m",
                __name__,
                str(fork_server_socket(folder)),
                str(os.getpid()),
            ]
            subprocess.Popen(command, env={**os.environ, "PYTHONPATH": python_path()}, stdin=subprocess.DEVNULL)  # noqa: S603
        flower_supernode()


def _own_superexec() -> str:
    where = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = shutil.which("fedshield-superexec", path=where)
    if command is None:
        raise FedShieldError(
            "fedshield-superexec, which is installed with this command, is missing; install FedShield again"
        )
    return command


def serve(place: Path, parent: int, prepare: Callable[[], object]) -> list[str] | None:
    """Fork for each command that comes, until the parent ends.

    Args:
        place: the socket; commands wait there while ``prepare`` is under way.
        parent: process whose end is the end of this one.
        prepare: does what no child should have to do again.

    Returns:
        In a child, its command; in this process None, at its end. A child finds none of FedShield's modules imported.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            with short_name(place) as name:
                listener.bind(name)
        except FileNotFoundError:  # a SuperNode that was refused at once has removed the folder
            return None
        listener.listen(128)
        listener.settimeout(_POLL_SECONDS)
        prepare()
        gc.freeze()  # or a child's first collection would copy all pages
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave nothing behind
        while is_alive(parent):
            try:
                command = _receive(listener)
            except (TimeoutError, ValueError):  # nothing came, or from one that was ended in the middle of it
                continue
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _forget()
                return command
    return None


def _forget() -> None:
    """Keep installed packages from shadowing the run's own copy of the app, whose packages have the same names."""
    ours = {part.__module__.partition(".")[0] for part in (is_alive, FedShieldError)}
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]


def _receive(listener: socket.socket) -> list[str]:
    far, _ = listener.accept()
    with far, far.makefile("rb") as stream:
        far.setblocking(True)
        command: list[str] = json.loads(stream.read())
        return command


def main() -> None:
    """Be the process that forks, and in its children Flower's command."""

    def imports() -> object:
        from flwr.clientapp import ClientApp
        from flwr.supernode.cli import flwr_clientapp
        from safetensors import numpy

        return ClientApp, flwr_clientapp, numpy

    command = serve(Path(sys.argv[1]), int(sys.argv[2]), imports)
    if command is not None:
        from flwr.supernode.cli import flwr_clientapp

        sys.argv = command
        flwr_clientapp()


if __name__ == "__main__":
    main()
