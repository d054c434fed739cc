"""Where LocalGrid's clients run: here, in other processes (``process_executor``), or in Ray (``ray_executor``)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Context, Error, Message, Metadata, RecordDict


@dataclass(frozen=True)
class Job:
    """One client's turn.

    Attributes:
        message: to the client.
        context: of the client.
    """

    message: Message
    context: Context


Outcome = tuple[Message, RecordDict]
"""A job's reply and the client's new state."""


class Executor(Protocol):
    """Runs clients."""

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        """Yield each job's outcome as it comes; one that fails, or takes longer than ``timeout`` s, yields an error."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


def run_client(message: Message, context: Context) -> Outcome:
    """Call the ClientApp on one message; what it raises becomes an error reply, as on Flower's engines."""
    from client.app import app

    try:
        return app(message, context), context.state
    except (Exception, SystemExit) as error:  # any bug of a client must not end the others' round
        return failure(message, f"{type(error).__name__}: {error}"), context.state


def message_of(content: RecordDict, metadata: Metadata) -> Message:
    """Put a message together again in another process; keeping the metadata is what Flower's own engines do."""
    message: Message = Message(content=content, metadata=metadata)  # type: ignore[call-overload]  # internal to Flower
    return message


def failure(message: Message, reason: str) -> Message:
    """Return an error reply."""
    return Message(Error(code=0, reason=" ".join(reason.split())), reply_to=message)


class InProcess:
    """One client after the other, in this process. A client that hangs cannot be ended here."""

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        """Run the jobs in order."""
        for job in jobs:
            yield run_client(job.message, job.context)

    def close(self) -> None:
        """Hold nothing."""
