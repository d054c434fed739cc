"""Clients in processes of this machine, without Ray: for CPUs."""

import contextlib
import logging
import math
import os
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import wait

from flwr.app import RecordDict

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.machine import fitting
from simulations.engine.executor import Job, Outcome
from simulations.engine.parcels import pack, receive, send
from simulations.engine.process_start import STATUS, start
from simulations.engine.turns import (
    FAILED_STARTS,
    Ended,
    deadline_after,
    how_ended,
    longest_first,
    seconds_left,
    take_turns,
    too_late,
)

log = logging.getLogger("fedshield")

_TOLD_SECONDS = 5.0  # within which it is known how a worker has ended


def worker_count(config: RunConfig, workers: int | None) -> int:
    """Return the number of workers: those of the user, or as many as fit on the cores; a cohort at most."""
    return min(workers or fitting(config.threads), config.federation.cohort)


class _Worker:
    """A process, as seen from here.

    Attributes:
        process: its id; 0 until it is ready.
        job: what it does.
        deadline: when that must be done, on the monotonic clock.
        near: this side of the connection with it.
    """

    def __init__(self, near: socket.socket) -> None:
        self.process = 0
        self.job: Job | None = None
        self.deadline = math.inf
        self.near = near
        self._content: RecordDict | None = None

    def receive(self) -> "int | Outcome | None":
        """Return the process's id, once, then what came of its jobs; None if it has ended."""
        try:
            found: int | Outcome = receive(self.near)
        except EOFError:
            self.process = 0  # its number may soon be another process's
            return None
        return found

    def start(self, job: Job, common: int | None, deadline: float) -> bool:
        """Let a client run; tell whether the process has taken it.

        Args:
            job: the client's.
            common: the content of its message, packed, if other messages have the same; it is sent to a process once.
            deadline: when the job must be done.
        """
        content = job.message.content
        order = pack((job.message.metadata, job.context, content if common is None else None))
        try:
            if common is not None and self._content is not content:
                send(self.near, common)
                self._content = content
            send(self.near, order)
        except ConnectionError:
            return False
        finally:
            os.close(order)
        self.job, self.deadline = job, deadline
        return True

    def end(self) -> None:
        """End the process at once; one that is not ready yet ends as soon as it finds the socket closed."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
        self.near.close()


class Processes:
    """Worker processes, each of which runs one client at a time.

    A worker that dies is replaced, and its client runs once more. A worker that takes longer than the round's timeout
    is ended and replaced, and its client fails. No worker outlives this process, however it ends.

    Args:
        config: of the run.
        workers: number of processes; None: as many as the cores allow with ``threads`` each. There are never more
            than clients in a round.

    Raises:
        FedShieldError: this is not Linux.
    """

    worker = f"{__package__}.process_worker"

    def __init__(self, config: RunConfig, workers: int | None = None) -> None:
        if sys.platform != "linux":
            raise FedShieldError("--engine processes: works on Linux only; use --engine ray")
        self._config = config
        self.workers = worker_count(config, workers)
        self._statuses: dict[int, int] = {}  # of workers that have ended
        self._lost = 0  # workers that ended without having a client
        self._team: list[_Worker] = []
        self._open()
        for _ in range(self.workers):
            self._add_worker()

    def _open(self) -> None:
        """Start the process that forks."""
        self._control, far = socket.socketpair()
        with far:
            self._forks = start(self.worker, self._control, far)

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        """Keep every worker busy, longest shard first, until the jobs are done.

        Content that messages have in common is sent to each worker once, and read in place.
        """
        waiting = longest_first(self._config, jobs)
        contents = {id(job.message.content): job.message.content for job in jobs}
        uses = Counter(id(job.message.content) for job in jobs)
        common = {key: pack(content) for key, content in contents.items() if uses[key] > 1}
        hand_out, ended = partial(self._hand_out, waiting, common, timeout), partial(self._ended, timeout)
        try:
            yield from take_turns(waiting, hand_out, ended)
        finally:
            for parcel in common.values():
                os.close(parcel)
            for worker in self._busy():  # whose outcomes nobody wants any more
                self._replace(worker)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._team if worker.job is not None]

    def _hand_out(self, waiting: deque[Job], common: dict[int, int], timeout: float | None) -> bool:
        """Give free workers the jobs whose turn it is; tell whether there is any worker."""
        deadline = deadline_after(timeout)
        for worker in [worker for worker in self._team if worker.process and worker.job is None]:
            if waiting and worker.start(waiting[0], common.get(id(waiting[0].message.content)), deadline):
                waiting.popleft()
        return bool(self._team)

    def _ended(self, timeout: float | None) -> list[Ended]:
        """Wait until something happens; return jobs whose turn has ended."""
        deadlines = [worker.deadline for worker in self._busy()]
        told = wait([worker.near for worker in self._team], seconds_left(deadlines))
        if not told and not deadlines:
            self._end_all()  # none has started in time, so none is to be waited for
        now, ended = time.monotonic(), list[Ended]()
        for worker in list(self._team):
            job = worker.job
            if worker.near in told:
                process, found = worker.process, worker.receive()
                if isinstance(found, int):
                    worker.process = found
                    continue
                how = how_ended(self._status(process)) if found is None else ""
                if found is None:
                    self._replace(worker, how)
                if job is not None:
                    worker.job = None
                    ended.append((job, found, how))
            elif job is not None and worker.deadline <= now:
                self._replace(worker)
                ended.append((job, too_late(job, timeout), ""))
        return ended

    def _status(self, process: int) -> int | None:
        """Return a worker's exit status, or minus the signal that ended it; None if the process that forks has ended.

        Args:
            process: the worker's id; 0 if it was never ready.
        """
        self._control.settimeout(_TOLD_SECONDS)
        with contextlib.suppress(OSError):
            while process and process not in self._statuses:
                if len(told := self._control.recv(STATUS.size, socket.MSG_WAITALL)) < STATUS.size:
                    break
                number, status = STATUS.unpack(told)
                self._statuses[number] = status
        self._control.settimeout(None)
        return self._statuses.pop(process, None)

    def _add_worker(self) -> None:
        near, far = socket.socketpair()
        with far, contextlib.suppress(ConnectionError):  # then nobody holds the other side, as after a worker's end
            try:
                send(self._control, far.fileno())
            except ConnectionError:  # the process that forks has ended
                self._close()
                self._open()
                send(self._control, far.fileno())
        self._team.append(_Worker(near))

    def _replace(self, worker: _Worker, how: str = "") -> None:
        """Let another worker take the place of one that has ended, or is ended now.

        Args:
            worker: to be replaced.
            how: it has ended.
        """
        worker.end()
        self._team.remove(worker)
        if worker.job is None:
            log.warning(
                "a worker could not start, or has ended while it had no client (%s): most often it lacks memory; use "
                "fewer --workers, or --engine inprocess",
                how or "not ready in time",
            )
            self._lost += 1
        if self._lost <= FAILED_STARTS * self.workers:
            self._add_worker()

    def _end_all(self) -> None:
        for worker in self._team:
            worker.end()
        self._team.clear()

    def close(self) -> None:
        """End all processes."""
        self._end_all()
        self._close()

    def _close(self) -> None:
        self._control.close()
        if not self._forks:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._forks, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._forks, 0)
        self._forks = 0
