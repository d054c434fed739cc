"""Where LocalGrid's clients run: in this process, or in long-lived Ray actors."""

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.metadata import Metadata

from common.errors import FedShieldError

Job = tuple[Message, Context]


class Executor(Protocol):
    """Runs clients."""

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[tuple[Message, RecordDict]]:
        """Yield each job's reply and new client state as it comes; a job that fails or is late yields an error."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


def run_client(message: Message, context: Context) -> tuple[Message, RecordDict]:
    """Call the ClientApp on one message; what it raises becomes an error reply, as on Flower's engines."""
    from client.app import app

    try:
        return app(message, context), context.state
    except Exception as error:  # any bug of a client must not end the others' round
        return failure(message, f"{type(error).__name__}: {error}"), context.state


def failure(message: Message, reason: str) -> Message:
    """Return an error reply."""
    return Message(Error(code=0, reason=" ".join(reason.split())), reply_to=message)


class InProcess:
    """One client after the other, in this process. A client that hangs cannot be ended here."""

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[tuple[Message, RecordDict]]:
        """Run the jobs in order."""
        for message, context in jobs:
            yield run_client(message, context)

    def close(self) -> None:
        """Hold nothing."""


def gpu_share(workers: int, gpus: int) -> float:
    """Return the part of one GPU that each worker gets, so that all of them fit, and none spans two."""
    return 1 / math.ceil(workers / gpus) if gpus else 0


class RayActors:
    """Long-lived actors, each of which runs one client at a time.

    Args:
        workers: number of actors.
    """

    def __init__(self, workers: int) -> None:
        # Under `uv run` Ray would start its workers through uv, in an environment of their own.
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
        # Ray's workers step back behind everything else on the machine (nice 15); here they do the main work.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # The future behaviour, and the warning about it goes away.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray
        import torch

        self._ray = ray
        gpus = torch.cuda.device_count()
        ray.init(
            num_cpus=workers,
            num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
        self._actor: Any = ray.remote(num_cpus=1, num_gpus=gpu_share(workers, gpus))(_Worker)
        self._idle: list[Any] = [self._actor.remote() for _ in range(workers)]

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[tuple[Message, RecordDict]]:
        """Keep every actor busy until the jobs are done; content that messages have in common is stored once."""
        ray = self._ray
        deadline = None if timeout is None else time.monotonic() + timeout
        contents = {id(message.content): message.content for message, _ in jobs}
        stored = {key: ray.put(content) for key, content in contents.items()}
        waiting = list(reversed(jobs))
        running: dict[Any, tuple[Any, Job]] = {}
        while waiting or running:
            while waiting and self._idle:
                message, context = waiting.pop()
                actor = self._idle.pop()
                reference = actor.run.remote(stored[id(message.content)], message.metadata, context)
                running[reference] = (actor, (message, context))
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            finished, _ = ray.wait(list(running), num_returns=1, timeout=left)
            if not finished:
                yield from self._give_up([job for _, job in running.values()] + waiting, timeout)
                for actor, _ in running.values():
                    self._replace(actor)
                return
            actor, (message, context) = running.pop(finished[0])
            try:
                result: tuple[Message, RecordDict] = ray.get(finished[0])
                self._idle.append(actor)
            except ray.exceptions.RayTaskError as error:
                self._idle.append(actor)
                result = failure(message, f"its worker failed: {error.cause}"), context.state
            except ray.exceptions.RayError as error:
                self._replace(actor)
                result = failure(message, f"its worker died ({type(error).__name__})"), context.state
            yield result

    def _give_up(self, jobs: list[Job], timeout: float | None) -> Iterator[tuple[Message, RecordDict]]:
        for message, context in jobs:
            yield failure(message, f"no reply within federation.client-timeout-seconds = {timeout}"), context.state

    def _replace(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)
        self._idle.append(self._actor.remote())

    def close(self) -> None:
        """End Ray and its processes."""
        self._ray.shutdown()


class _Worker:
    """The inside of an actor."""

    def run(self, content: RecordDict, metadata: Metadata, context: Context) -> tuple[Message, RecordDict]:
        # Keeping the metadata is internal to Flower, whose own engines build messages so.
        return run_client(Message(content=content, metadata=metadata), context)  # type: ignore[call-overload]


def make_executor(engine: str, workers: int | None) -> Executor:
    """Return the executor of ``--engine`` and ``--workers``."""
    if engine == "ray":
        return RayActors(workers or 1)
    if workers not in (None, 1):
        raise FedShieldError(f"--workers {workers}: the inprocess engine has one; use --engine ray for more")
    return InProcess()
