"""What engines with several workers have in common: whose turn it is, and what follows when a worker dies."""

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.messages.protocol import PARTITION_ID
from simulations.engine.executor import Job, Outcome, failure

_START_SECONDS = 300.0  # for a worker's imports, on a machine that is busy
FAILED_STARTS = 3  # for each worker, in a run: what fails again and again is not a machine that went down


def longest_first(config: RunConfig, jobs: Sequence[Job]) -> deque[Job]:
    """Return jobs by the number of images of their clients: who starts last should not take longest."""
    return deque(
        sorted(jobs, key=lambda job: _images(config, int(job.context.node_config[PARTITION_ID])), reverse=True)
    )


@cache  # or each round would read all images
def _images(config: RunConfig, client: int) -> int:
    """Return the number of images of a client; one that cannot read its own will say so itself."""
    from common.factory import client_data

    try:
        return len(client_data(config, client).labels)
    except FedShieldError:
        return 0


Ended = tuple[Job, Outcome | None, str]
"""A job whose turn has ended, and what came of it; None and how, if its worker died."""


def take_turns(
    waiting: deque[Job], hand_out: Callable[[], bool], ended: Callable[[], Iterable[Ended]]
) -> Iterator[Outcome]:
    """Run the jobs on workers; yield each outcome as it comes.

    Args:
        waiting: the jobs, in turn; one whose worker has died comes back to the left.
        hand_out: gives the next jobs to free workers; tells whether there is any worker, or will be.
        ended: waits until something happens.
    """
    second, left = _SecondTurns(), len(waiting)
    while left:
        if not hand_out():
            yield from _without_workers(waiting)
            return
        for job, found, reason in ended():
            outcome = second.settle(job, found, reason)
            if outcome is None:
                waiting.appendleft(job)
                continue
            hand_out()  # first: no worker waits while the server looks at the reply
            left -= 1
            yield outcome


def deadline_after(timeout: float | None) -> float:
    """Return when a turn that begins now must be done, on the monotonic clock; infinite without a timeout."""
    return math.inf if timeout is None else time.monotonic() + timeout


def seconds_left(deadlines: Iterable[float]) -> float | None:
    """Return how long to wait for turns with these deadlines, None without end; without turns, for workers to start."""
    deadline = min(deadlines, default=time.monotonic() + _START_SECONDS)
    return None if deadline == math.inf else max(0.0, deadline - time.monotonic())


class _SecondTurns:
    """A client whose worker dies runs once more; if that worker dies too, the client fails."""

    def __init__(self) -> None:
        self._failures: dict[int, str] = {}

    def settle(self, job: Job, outcome: Outcome | None, reason: str) -> Outcome | None:
        """Return what the server is told of a job, or None if its client is to run again.

        Args:
            job: whose turn has ended.
            outcome: what came of it; None if the worker died.
            reason: then, how the worker died.
        """
        first = self._failures.get(job.context.node_id)
        if outcome is None and first is None:
            self._failures[job.context.node_id] = reason
            return None
        if outcome is None:
            told = f"{first}, and again when it ran once more" if reason == first else f"{first}; then {reason}"
            return failure(job.message, told), job.context.state
        if first is not None and not outcome[0].has_error():
            from common.messages.records import note_failure

            note_failure(outcome[0].content, first)
        return outcome


_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)


def how_ended(status: int | None) -> str:
    """Say how a worker's process has ended, and what is the likely cause.

    Args:
        status: its exit status, or minus the number of its signal; None where that is not known.
    """
    if status is None:
        return "its worker died"
    if status >= 0:
        return f"its worker died (exit status {status}: code of a network, loss or attack may have ended it)"
    known = {number.value: number for number in signal.Signals}
    number = known.get(-status)
    name = f"signal {-status}" if number is None else number.name
    if number == signal.SIGKILL:
        name += ": most often because memory was lacking; use fewer --workers"
    elif number in _CRASHES:
        name += ": native code has crashed; look first at your own network, loss or attack"
    return f"its worker died ({name})"


def too_late(job: Job, timeout: float | None) -> Outcome:
    """Return the outcome of a job whose client has taken too long."""
    return failure(job.message, f"no reply within federation.client-timeout-seconds = {timeout}"), job.context.state


def _without_workers(jobs: Iterable[Job]) -> Iterator[Outcome]:
    """Yield the outcomes of jobs for which there is no worker."""
    reason = "no worker is left, and none could be started; use fewer --workers, or --engine inprocess"
    for job in jobs:
        yield failure(job.message, reason), job.context.state
