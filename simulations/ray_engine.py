"""Clients in long-lived Ray actors: on the cores and GPUs of this machine, or of a Ray cluster."""

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.app.metadata import Metadata

from common.config import DataConfig, RunConfig
from common.data import adopt_data, data_key
from common.records import find_shared, keep_shared, note_failure, shared_digest
from common.setup import prepare_data
from simulations.executors import Job, Outcome, failure, run_client
from simulations.ray_cluster import default_workers, gpu_share, start_ray

log = logging.getLogger("fedshield")

_START_SECONDS = 300.0  # for a worker's imports, on a machine that is busy


@dataclass
class _Turn:
    """A job on a worker."""

    actor: Any
    job: Job
    deadline: float


@dataclass(frozen=True)
class _Supply:
    """What a worker may lack on its machine: object references, so that it is sent only when it is asked for.

    Attributes:
        data: which dataset.
        key: its name in the cache.
        splits: the decoded dataset; None where every worker has this machine's cache.
        shared: the shared data's digest and record, once it was sent to a client.
    """

    data: DataConfig
    key: str
    splits: Any = None
    shared: tuple[str, Any] | None = None


class Worker:
    """The inside of an actor."""

    def __init__(self) -> None:
        import client.app  # noqa: F401  # the seconds that it takes are not the first client's

    def ready(self) -> None:
        """Answer once the imports are done."""

    def run(self, content: RecordDict, metadata: Metadata, context: Context, supply: _Supply) -> Outcome:
        """Run one client."""
        _take(supply)
        # Keeping the metadata is internal to Flower, whose own engines build messages so.
        return run_client(Message(content=content, metadata=metadata), context)  # type: ignore[call-overload]


def _take(supply: _Supply) -> None:
    """Let this process use what the server's machine has, where its own machine lacks it."""
    import ray

    data = supply.data
    adopt_data(data.name, data.root, data.image_size, supply.key, lambda: ray.get(supply.splits))
    if supply.shared is not None and find_shared(supply.shared[0]) is None:
        record: ArrayRecord = ray.get(supply.shared[1])
        keep_shared(record, supply.shared[0])


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
        self._ray = start_ray(address, gpus)
        resources = self._ray.cluster_resources()
        found = int(resources.get("GPU", 0))
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        self.workers = workers or default_workers(found, int(resources["CPU"]), nodes, config.threads)
        cpus = 0 if address is None else 1  # on this machine, the number of workers is the user's to choose
        self._actor = self._ray.remote(
            num_cpus=cpus, num_gpus=gpu_share(self.workers, found), scheduling_strategy="SPREAD"
        )(self.worker)
        self._far = nodes > 1
        self._supply: _Supply | None = None
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        for _ in range(self.workers):
            self._add_worker()

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        """Keep every worker busy, longest shard first, until the jobs are done.

        Content that messages have in common is stored once, and read in place by the workers of a machine.
        """
        stored = {id(job.message.content): job.message.content for job in jobs}
        references = {key: self._ray.put(content) for key, content in stored.items()}
        supply = self._ray.put(self._supplies([job.message for job in jobs]))
        waiting = deque(sorted(jobs, key=self._size, reverse=True))
        running: dict[Any, _Turn] = {}
        troubles: dict[int, str] = {}
        while waiting or running:
            while waiting and self._idle:
                job, actor = waiting.popleft(), self._idle.pop()
                content = references[id(job.message.content)]
                turn = actor.run.remote(content, job.message.metadata, job.context, supply)
                running[turn] = _Turn(actor, job, math.inf if timeout is None else time.monotonic() + timeout)
            if not running and not self._starting:
                yield from _fail_all(waiting, "no worker is left, and none could be started")
                return
            for reference in self._wait(running):
                turn = running.pop(reference)
                outcome, trouble = self._collect(reference, turn, timeout)
                node = turn.job.context.node_id
                if outcome is None and node not in troubles:
                    troubles[node] = trouble
                    waiting.appendleft(turn.job)
                    continue
                if outcome is None:
                    outcome = failure(turn.job.message, f"{troubles[node]}; {trouble} again"), turn.job.context.state
                elif node in troubles and not outcome[0].has_error():
                    note_failure(outcome[0].content, troubles[node])
                yield outcome

    def _wait(self, running: dict[Any, _Turn]) -> list[Any]:
        """Return turns that have ended or whose time is up; take in workers that have started."""
        deadline = min((turn.deadline for turn in running.values()), default=time.monotonic() + _START_SECONDS)
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        done, _ = self._ray.wait([*running, *self._starting], num_returns=1, timeout=left)
        for reference in done:
            if (actor := self._starting.pop(reference, None)) is not None:
                try:
                    self._ray.get(reference)
                    self._idle.append(actor)
                except self._ray.exceptions.RayError as error:
                    log.warning("a worker could not start: %s", " ".join(str(error).split())[-300:])
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
            late = f"no reply within federation.client-timeout-seconds = {timeout}"
            return (failure(job.message, late), job.context.state), ""
        except ray.exceptions.RayTaskError as error:
            self._idle.append(turn.actor)
            return (failure(job.message, f"its worker failed: {error.cause}"), job.context.state), ""
        except ray.exceptions.RayError as error:
            self._replace(turn.actor)
            return None, f"its worker died ({type(error).__name__})"

    def _supplies(self, messages: Sequence[Message]) -> _Supply:
        """Return what workers may lack, with the shared data of these messages or of earlier ones."""
        data = self._config.data
        arguments = data.name, data.root, data.image_size
        if self._supply is None:
            splits = self._ray.put(prepare_data(self._config)[0]) if self._far else None
            self._supply = _Supply(data, data_key(*arguments), splits)
        records = (message.content.array_records.get("shared") for message in messages)
        shared = next((record for record in records if record is not None), None)
        if shared is not None and self._far:
            self._supply = _Supply(
                data, self._supply.key, self._supply.splits, (shared_digest(shared), self._ray.put(shared))
            )
        return self._supply

    def _size(self, job: Job) -> int:
        """Return the number of images of a job's client."""
        return len(prepare_data(self._config)[1].shards[int(job.context.node_config["partition-id"])])

    def _add_worker(self) -> None:
        actor = self._actor.remote()
        self._starting[actor.ready.remote()] = actor

    def _replace(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)
        self._add_worker()

    def close(self) -> None:
        """Leave Ray; what was started on this machine ends."""
        self._ray.shutdown()


def _fail_all(jobs: Sequence[Job], reason: str) -> Iterator[Outcome]:
    for job in jobs:
        yield failure(job.message, reason), job.context.state
