"""Flower's SuperExec, which starts a process for each message, as a client's machine with other users needs it.

Flower's own gives messages to any process that asks, and writes the token that answers them into a command line, which
every user of the machine can read: another user could take a message, with the model in it, and answer it in the
client's name.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from client.supernode.sockets import short_name
from client.supernode.worker import FOLDER

log = logging.getLogger("fedshield")

_SECRET, _FORK_SERVER = "secret", "fork-server"  # in the SuperNode's folder


def fork_server_socket(folder: Path) -> Path:
    """Return the socket of the process that forks."""
    return folder / _FORK_SERVER


def keep_others_out(folder: Path) -> None:
    """Let Flower's SuperNode, in this process, give messages only to the SuperExec that it starts.

    Flower 1.41 asks for a secret where a user starts the SuperExec, but not where the SuperNode does.

    Args:
        folder: the SuperNode's, which no other user can enter.
    """
    secret = os.urandom(32)
    (folder / _SECRET).write_bytes(secret)
    flower: Any = import_module("flwr.supernode.cli.flower_supernode")
    start = flower._start_supernode_http_api

    def guarded(config: Any, *others: Any) -> Any:
        if config.isolation == "subprocess":
            config = replace(config, superexec_auth_secret=secret)
        elif config.superexec_auth_secret is None:
            log.warning(
                "--isolation process without --superexec-auth-secret-file: every user of this machine can take this "
                "client's messages and answer them; give it to this command and to flower-superexec"
            )
        return start(config, *others)

    flower._start_supernode_http_api = guarded


def main() -> None:
    """Entry point of ``fedshield-superexec``, which the SuperNode's PATH has first, under the name flower-superexec."""
    from flwr.supercore.cli import flower_superexec
    from flwr.supercore.superexec.executor import subprocess_executor

    starting: Any = subprocess_executor
    starting.subprocess = SimpleNamespace(Popen=_hand_over, DEVNULL=subprocess.DEVNULL)
    sys.argv += ["--superexec-auth-secret-file", str(Path(os.environ[FOLDER]) / _SECRET)]
    flower_superexec()


def _hand_over(command: list[str], **streams: Any) -> None:
    """Let the fork server do Flower's command for a message; where it does not, start the command itself."""
    try:
        with socket.socket(socket.AF_UNIX) as near:
            with short_name(fork_server_socket(Path(os.environ[FOLDER]))) as name:
                near.connect(name)
            near.sendall(json.dumps(command).encode())
    except OSError:
        _start(command, **streams)


def _start(command: list[str], **streams: Any) -> None:
    """Start Flower's command with its token in a file that nobody else can open."""
    number = command.index("--token")
    with tempfile.TemporaryFile() as token:
        token.write(command[number + 1].encode())
        token.seek(0)
        quiet = [*command[:number], "--token-file", "/dev/stdin", *command[number + 2 :]]
        subprocess.Popen(quiet, stdin=token, **streams)  # noqa: S603
