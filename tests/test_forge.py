"""Flower's command for a message, forked from a process that has imported everything; see also test_deployment.py."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from client.handover import ORIGINAL, PLACE
from tests.bench import BIN, ROOT
from tests.conftest import until

FORGE = """
import os, sys
from pathlib import Path
from client.forge import serve

log = Path(sys.argv[1])

def note(what):
    with log.open("a") as file:
        file.write(f"{what}\\n")

command = serve(Path(sys.argv[2]), int(sys.argv[3]), lambda: note("imported"))
installed = sum(name.partition(".")[0] in ("client", "common") for name in sys.modules)
note(f"{os.getpid()} {installed if command else bool(installed)} {command}")
"""


def test_each_command_gets_a_process_of_its_own_until_the_supernode_ends(tmp_path: Path) -> None:
    log, place, code = tmp_path / "log", tmp_path / "socket", tmp_path / "forge.py"
    log.touch()
    code.write_text(FORGE)
    # A link of Flower's name, as the SuperNode's path has it first.
    command = tmp_path / "flwr-clientapp"
    command.symlink_to(BIN / "fedshield-clientapp")

    def lines() -> list[str]:
        return log.read_text().splitlines()

    with subprocess.Popen(["sleep", "600"]) as supernode:
        try:
            forge = subprocess.Popen(
                [sys.executable, str(code), str(log), str(place), str(supernode.pid)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            until(place.exists)
            with socket.socket(socket.AF_UNIX) as ended:  # before it has said anything
                ended.connect(str(place))
            for token in ("one", "two words"):
                subprocess.run(
                    [command, "--token", token], env={**os.environ, PLACE: str(place)}, check=True, timeout=60
                )
            until(lambda: len(lines()) == 3)
            first, *others = lines()
            assert first == "imported"
            told = dict(line.split(" ", 1) for line in others)
            assert str(forge.pid) not in told
            assert sorted(told.values()) == [
                f"0 ['{command}', '--token', 'one']",  # the app that the run has brought is the one that is imported
                f"0 ['{command}', '--token', 'two words']",
            ]
        finally:
            supernode.kill()
    forge.wait(60)
    assert lines()[-1] == f"{forge.pid} True None"


def test_a_supernode_that_has_ended_before_leaves_no_complaint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "client.forge", str(tmp_path / "gone" / "socket"), str(os.getpid())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_where_nobody_forks_flowers_own_command_runs(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.write_text('#!/bin/sh\necho "$0 $@"\nexit 3\n')
    original.chmod(0o755)
    done = subprocess.run(
        [BIN / "fedshield-clientapp", "--token", "one"],
        env={**os.environ, PLACE: str(tmp_path / "nobody"), ORIGINAL: str(original)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (3, f"{original} --token one\n")
