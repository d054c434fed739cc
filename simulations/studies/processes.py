"""Processes of a sweep: several runs at a time, all of which end with it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import resolve_name
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from common.errors import explain_os_errors
from common.files import open_to_append, replace_file, unshare
from common.machine import asked_device, fitting
from common.paths import python_path
from simulations.studies.gather import forget_failure, note_code
from simulations.studies.study import Point, config_toml

_OURS = "fedshield: "
_POLL = 0.1  # seconds
PATIENCE = 60  # seconds that a run has to write its checkpoint, and that we wait for one left by a killed sweep


@dataclass
class RunProcess:
    """A run in its process.

    Attributes:
        point: what runs.
        process: of the run.
        log: its log, to which earlier attempts have written too.
        begin: length of the log when it was started.
        slot: which of the places it takes.
    """

    point: Point
    process: subprocess.Popen[bytes]
    log: Path
    begin: int
    slot: int

    def complaint(self) -> str:
        """Return why the run failed: FedShield's line in its log, or the last line; and the signal that ended it."""
        text = self.log.read_bytes()[self.begin :].decode(errors="replace")
        lines = [line.strip() for line in text.split("\n") if line.strip()] or ["its log is empty"]
        # Below it may be the last words of a library that fails when the process ends.
        last = next((line for line in reversed(lines) if line.startswith(_OURS)), lines[-1]).removeprefix(_OURS)
        code = self.process.returncode
        return f"ended by signal {-code} after: {last}" if code < 0 else last


def gpus() -> list[str]:
    """Return the GPUs that may be used, as ``CUDA_VISIBLE_DEVICES`` names them; without importing torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked_device():
        return []
    if given is not None:
        return [part.strip() for part in given.split(",") if part.strip() not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        told = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in told.stdout.splitlines()))]


def default_jobs(threads: Sequence[int]) -> int:
    """Return how many runs fit on this machine: one for each GPU, or as many as have cores for their threads."""
    if found := len(gpus()):
        return found
    return fitting(max(threads)) if all(threads) else 1


def run_jobs(
    command: str,
    todo: Sequence[Point],
    runs: Path,
    jobs: int,
    ended: Callable[[RunProcess], None],
    stopping: Callable[[], None],
    started: Callable[[RunProcess], None] = lambda job: None,
) -> None:
    """Run points, ``jobs`` at a time and in their order, and call ``ended`` after each.

    Whatever ends this call ends the runs too: they are interrupted, and write their checkpoints.

    Args:
        command: ``run`` or ``centralized``.
        todo: the points.
        runs: folder of their run directories and logs.
        jobs: runs at a time, >= 1.
        ended: called with each job whose process has ended.
        stopping: called when runs are about to be interrupted.
        started: called with each job whose process has begun.
    """
    waiting, free, running = deque(todo), list(range(jobs)), list[RunProcess]()
    devices = gpus()
    try:
        while waiting or running:
            while waiting and free:
                slot = free.pop(0)
                running.append(_start(command, waiting.popleft(), runs, slot, devices))
                started(running[-1])
            time.sleep(_POLL)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                free.append(job.slot)
                ended(job)
    finally:
        if running:
            _stop(running, stopping)


def _start(command: str, point: Point, runs: Path, slot: int, devices: Sequence[str]) -> RunProcess:
    """Start a run, or continue it where it has a checkpoint."""
    run, path = runs / point.name, runs / f"{point.name}.log"
    replace_file(runs / f"{point.name}.toml", config_toml(point.config).encode())
    begun = (run / "config.json").exists() and any((run / x).exists() for x in ("metrics.jsonl", "checkpoint"))
    note_code(runs, point.name, begun=begun)
    forget_failure(runs, point.name)
    place = ["--resume", str(run)] if begun else ["--results", str(runs), "--name", point.name]
    engine = ["--engine", "inprocess"] if command == "run" else []  # the sweep itself uses all cores, or all GPUs
    arguments = [str(os.getpid()), command, str(runs / f"{point.name}.toml"), *place, *engine]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # The same sources as ours, also where they are not installed.
    environment["PYTHONPATH"] = python_path()
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    with explain_os_errors(path):
        unshare(path)
        with open_to_append(path) as log:
            begin = log.seek(0, os.SEEK_END)
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", resolve_name("..cli.child", __package__), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # the terminal's Ctrl-C is ours to pass on, once
            )
        return RunProcess(point, process, path, begin, slot)


def await_orphans(runs: Sequence[Path]) -> None:
    """Wait while runs of a sweep that was killed still write their last checkpoints, or finish."""
    deadline = time.monotonic() + PATIENCE
    for run in runs:
        if (run / ".lock").exists():
            with explain_os_errors(run), suppress(Timeout):  # the run itself will say what is wrong
                FileLock(run / ".lock").acquire(timeout=max(0.0, deadline - time.monotonic())).lock.release()


def _stop(running: Sequence[RunProcess], stopping: Callable[[], None]) -> None:
    """Interrupt the runs and wait for their checkpoints; kill those that take too long, or at a second Ctrl-C."""
    _signal(running, psutil.Process.send_signal, signal.SIGINT)
    deadline = time.monotonic() + PATIENCE
    try:
        stopping()
        for job in running:
            with suppress(subprocess.TimeoutExpired):
                job.process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        _signal([job for job in running if job.process.poll() is None], psutil.Process.kill)


def _signal(running: Sequence[RunProcess], send: Callable[..., None], *number: signal.Signals) -> None:
    """Send something to runs and to all that these have started."""
    for job in running:
        with suppress(psutil.NoSuchProcess):
            run = psutil.Process(job.process.pid)
            for process in (run, *run.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    send(process, *number)
                    process.resume()  # one that was paused could not hear it
