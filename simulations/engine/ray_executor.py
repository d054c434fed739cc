"""Clients in long-lived Ray actors: on the cores and GPUs of this machine, or of a Ray cluster."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Metadata, RecordDict

from common.config.schema import RunConfig
from common.machine import available_cores
from simulations.engine.executor import Job, Outcome, failure, message_of, run_client
from simulations.engine.ray_cluster import default_workers, gpu_share, join_ray, private_folder, start_ray
from simulations.engine.turns import (
    FAILED_STARTS,
    Ended,
    deadline_after,
    longest_first,
    seconds_left,
    take_turns,
    too_late,
)

if TYPE_CHECKING:  # it imports torch, and Ray should be starting by then
    from simulations.engine.ray_data import Supplies, Supply

log = logging.getLogger("fedshield")


@dataclass
class _Turn:
    """A job on a worker."""

    actor: Any
    job: Job
    deadline: float


class Worker:
    """The inside of an actor."""

    def __init__(self) -> None:
        from client import app  # noqa: F401  # the seconds that it takes are not the first client's

    def ready(self) -> None:
        """Answer once the imports are done."""

    def run(self, content: RecordDict, metadata: Metadata, context: Context, supply: "Supply | None") -> Outcome:
        """Run one client."""
        if supply is not None:
            supply.take()
        return run_client(message_of(content, metadata), context)


class RayActors:
    """Long-lived actors, each of which runs one client at a time.

    A worker that dies is replaced, and its client runs once more. A worker that takes longer than the round's timeout
    is ended and replaced, and its client fails.

    Args:
        config: of the run.
        workers: number of actors; None: one for each GPU, or as many as the cores allow with ``threads`` each.
        address: of a Ray cluster to join; None starts Ray on this machine.
        gpus: number of GPUs; None: those that Ray finds.
    """

    worker = Worker

    def __init__(
        self, config: RunConfig, workers: int | None = None, address: str | None = None, gpus: int | None = None
    ) -> None:
        self._config = config
        self._files = private_folder()  # stays empty where a cluster is joined
        self._ray = start_ray(workers or 1, gpus, self._files.name) if address is None else join_ray(address)
        resources = self._ray.cluster_resources()
        found = int(resources.get("GPU", 0))
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        cores = available_cores() if address is None else int(resources.get("CPU", 0))
        self.workers = workers or default_workers(found, cores, nodes, config.threads)
        cpus = 0 if address is None else 1  # on this machine, the number of workers is the user's to choose
        self._actor = self._ray.remote(
            num_cpus=cpus, num_gpus=gpu_share(self.workers, found), scheduling_strategy="SPREAD"
        )(self.worker)
        self._far = address is not None
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._failed_starts = 0
        for _ in range(self.workers):
            self._add_worker()

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        """Keep every worker busy, longest shard first, until the jobs are done.

        Content that messages have in common is stored once, and read in place by the workers of a machine.
        """
        contents = {id(job.message.content): job.message.content for job in jobs}
        references = {key: self._ray.put(content) for key, content in contents.items()}
        supply = None
        if self._far:
            supply = self._ray.put(self._supplies.for_messages([job.message for job in jobs]))
        waiting = longest_first(self._config, jobs)
        running: dict[Any, _Turn] = {}

        def hand_out() -> bool:
            while waiting and self._idle:
                job, actor = waiting.popleft(), self._idle.pop()
                content = references[id(job.message.content)]
                reference = actor.run.remote(content, job.message.metadata, job.context, supply)
                running[reference] = _Turn(actor, job, deadline_after(timeout))
            return bool(running or self._starting)

        def ended() -> Iterator[Ended]:
            for reference in self._wait(running):
                turn = running.pop(reference)
                yield (turn.job, *self._collect(reference, turn, timeout))

        return take_turns(waiting, hand_out, ended)

    def _wait(self, running: dict[Any, _Turn]) -> list[Any]:
        """Return turns that have ended or whose time is up; take in workers that have started."""
        left = seconds_left(turn.deadline for turn in running.values())
        done, _ = self._ray.wait([*running, *self._starting], num_returns=1, timeout=left)
        for reference in done:
            if (actor := self._starting.pop(reference, None)) is not None:
                try:
                    self._ray.get(reference)
                    self._idle.append(actor)
                except self._ray.exceptions.RayError as error:
                    log.warning("a worker could not start, or is gone: %s", " ".join(str(error).split())[-300:])
                    self._failed_starts += 1
                    if self._failed_starts <= FAILED_STARTS * self.workers:
                        self._add_worker()
        if not done and not running:
            self._starting.clear()  # none came in time, so none is to be waited for
        now = time.monotonic()
        return [ref for ref, turn in running.items() if ref in done or turn.deadline <= now]

    def _collect(self, reference: Any, turn: _Turn, timeout: float | None) -> tuple[Outcome | None, str]:
        """Return a turn's outcome, or None and what became of its worker."""
        ray, job = self._ray, turn.job
        try:
            outcome: Outcome = ray.get(reference, timeout=0)
            self._idle.append(turn.actor)
            return outcome, ""
        except ray.exceptions.GetTimeoutError:
            self._replace(turn.actor)
            return too_late(job, timeout), ""
        except ray.exceptions.RayTaskError as error:
            self._idle.append(turn.actor)
            return (failure(job.message, f"its worker failed: {error.cause}"), job.context.state), ""
        except ray.exceptions.RayError as error:
            self._replace(turn.actor)
            # A machine that goes down takes idle workers along: the client's second turn must not be on one of them.
            while self._idle:
                self._watch(self._idle.pop())
            told = "memory was lacking, or code of a network, loss or attack ended it"  # Ray knows no exit status
            return None, f"its worker died ({type(error).__name__}: {told})"

    @cached_property
    def _supplies(self) -> "Supplies":
        from simulations.engine.ray_data import Supplies

        return Supplies(self._config, self._ray)

    def _add_worker(self) -> None:
        self._watch(self._actor.remote())

    def _watch(self, actor: Any) -> None:
        """Count a worker as idle as soon as it answers."""
        self._starting[actor.ready.remote()] = actor

    def _replace(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)
        self._add_worker()

    def close(self) -> None:
        """Leave Ray; what was started on this machine is ended."""
        self._ray.shutdown()
        self._files.cleanup()
