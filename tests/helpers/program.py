"""The command line as a user meets it: a real process, or this one."""

import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from common.config.flat import Flat
from tests.helpers.settings import TINY

PROGRAM = str(Path(sys.executable).with_name("fedshield"))


def tiny_options(**changes: object) -> list[str]:
    flat: Flat = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}  # type: ignore[dict-item]
    return [part for key, value in flat.items() for part in ("--set", f"{key}={value}")]


def fedshield(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        [PROGRAM, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def invoke(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as ``fedshield`` does, but in this process, which has imported torch: a new one takes seconds.

    A command that starts processes of clients needs ``--engine inprocess``: a process that has computed is not forked.
    """
    from simulations.cli.main import main
    from simulations.terminal.console import console

    told, complaint = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, undone(), redirect_stdout(told), redirect_stderr(complaint):
        patch.setattr(sys, "argv", ["fedshield", *map(str, arguments)])
        variables = {"COLUMNS": "120", **environment}
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(console, "_width", int(variables["COLUMNS"]))  # it may have been made with another one
        if cwd is not None:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), told.getvalue(), complaint.getvalue())


@contextmanager
def undone() -> Iterator[None]:
    """Take back what the command line does to its process: the handlers of its log, of Ctrl-C and of a polite kill."""
    log = logging.getLogger("fedshield")
    before = [*log.handlers], log.level, log.propagate  # a copy: handlers are added in place
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        log.handlers, log.level, log.propagate = before
        for number, handler in signals.items():
            signal.signal(number, handler)
