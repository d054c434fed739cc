"""Flower's command for a message, forked from a process that has imported everything; see also test_deployment.py."""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.supernode.superexec import fork_server_socket
from client.supernode.worker import FOLDER
from common.paths import ROOT
from tests.helpers.bench import BIN
from tests.helpers.processes import free_ports
from tests.helpers.settings import until

# Flower's SuperExec, for one message.
SUPEREXEC = "import sys; from client.supernode.superexec import _hand_over; _hand_over(sys.argv[1:])"

FORGE = """
import os, sys
from pathlib import Path
from client.supernode.fork_server import serve

log = Path(sys.argv[1])

def note(what):
    with log.open("a") as file:
        file.write(f"{what}\\n")

command = serve(Path(sys.argv[2]), int(sys.argv[3]), lambda: note("imported"))
installed = sum(name.partition(".")[0] in ("client", "common") for name in sys.modules)
note(f"{os.getpid()} {installed if command else bool(installed)} {command}")
"""


def hand_over(folder: Path, *command: str) -> str:
    """Start Flower's command for a message as a SuperNode with this folder does; return what it prints."""
    environment = {**os.environ, FOLDER: str(folder), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", SUPEREXEC, *command],
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout


def test_each_command_gets_a_process_of_its_own_until_the_supernode_ends(tmp_path: Path) -> None:
    log, place, code = tmp_path / "log", fork_server_socket(tmp_path), tmp_path / "forge.py"
    log.touch()
    code.write_text(FORGE)

    def lines() -> list[str]:
        return log.read_text().splitlines()

    with subprocess.Popen(["sleep", "600"]) as supernode:
        try:
            forge = subprocess.Popen(
                [sys.executable, str(code), str(log), str(place), str(supernode.pid)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

            def answers() -> bool:  # its socket is there a moment before it listens
                with socket.socket(socket.AF_UNIX) as ended:  # before it has said anything
                    return ended.connect_ex(str(place)) == 0

            until(answers)
            for token in ("one", "two words"):
                hand_over(tmp_path, "flwr-clientapp", "--token", token)
            until(lambda: len(lines()) == 3)
            first, *others = lines()
            assert first == "imported"
            told = dict(line.split(" ", 1) for line in others)
            assert str(forge.pid) not in told
            assert sorted(told.values()) == [
                # 0: the app that the run has brought is the one that is imported.
                "0 ['flwr-clientapp', '--token', 'one']",
                "0 ['flwr-clientapp', '--token', 'two words']",
            ]
        finally:
            supernode.kill()
    forge.wait(60)
    assert lines()[-1] == f"{forge.pid} True None"


def test_a_supernode_that_has_ended_before_leaves_no_complaint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "client.supernode.fork_server", str(tmp_path / "gone" / "socket"), str(os.getpid())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_where_nobody_forks_flowers_own_command_runs_and_no_command_line_has_its_token(tmp_path: Path) -> None:
    own = tmp_path / "flwr-clientapp"
    own.write_text(
        '#!/bin/sh\ntr "\\0" " " < /proc/$$/cmdline\necho; while [ "$1" != --token-file ]; do shift; done; cat "$2"\n'
    )
    own.chmod(0o755)
    told = hand_over(tmp_path, "flwr-clientapp", "--runtime-api-address", "127.0.0.1:1", "--token", "one", "--insecure")
    line, token = told.splitlines()
    assert line.strip().endswith("flwr-clientapp --runtime-api-address 127.0.0.1:1 --token-file /dev/stdin --insecure")
    assert token == "one"


ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}


@contextmanager
def supernode(log: Path, *options: str) -> Iterator[str]:
    """Start a SuperNode whose SuperLink is not there; yield the address where it gives messages."""
    (port,) = free_ports(1)
    command = [BIN / "fedshield-supernode", "--insecure", "--superlink", "127.0.0.1:1", "--port", str(port), *options]

    def answers() -> bool:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health").status == 200
        except OSError:
            return False

    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--node-config", "partition-id=0"], env=ENVIRONMENT, stdout=output, stderr=output
        )
    try:
        until(answers, told=log.read_text)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def test_another_users_superexec_gets_no_message(tmp_path: Path) -> None:
    with supernode(tmp_path / "log") as address:
        # It knows the port, as everybody on this machine may, and ends when it is refused: else it would go on asking.
        other = [BIN / "flower-superexec", "--insecure", "--runtime-api-address", address]
        subprocess.run(other, env=ENVIRONMENT, check=True, timeout=120)
    log = (tmp_path / "log").read_text()
    assert log.count("SuperExec authentication failed") == 1
    assert "every user" not in log


def test_a_superexec_of_the_users_own_without_a_secret_is_warned_of(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"word")
    warning = (
        "--isolation process without --superexec-auth-secret-file: every user of this machine can take this client's"
    )
    for options in ([], ["--superexec-auth-secret-file", str(secret)]):
        with supernode(tmp_path / "log", "--isolation", "process", *options):
            pass
        assert (warning in (tmp_path / "log").read_text()) == (not options)
