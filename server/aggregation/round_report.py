"""What became of a round's messages, client by client."""

import logging
from statistics import median_low
from typing import Any

from flwr.app import MetricRecord

from common.errors import DeadEndError, FedShieldError
from common.words import in_one_line

log = logging.getLogger("fedshield")


class RoundReport:
    """The replies of one round: which are taken, which are not, and why.

    Args:
        server_round: counted from 1.
    """

    def __init__(self, server_round: int) -> None:
        self.metrics: dict[int, MetricRecord] = {}  # of the clients whose replies are taken
        self.refused: dict[int, str] = {}
        self.distrusted: set[int] = set()  # of them, those that have sent something
        self._lasting: dict[int, str] = {}
        self._norms: dict[int, float] = {}
        self._retried: dict[int, str] = {}
        self._shortened: dict[int, list[str]] = {}
        self._received = 0
        self._round = server_round

    def receive(self, size: int) -> None:
        """Note that a well-formed reply with arrays of so many bytes has come."""
        self._received += size

    def take(self, client: int, metrics: MetricRecord, norm: float) -> None:
        """Note a valid reply.

        Args:
            client: its number.
            metrics: of its reply.
            norm: L2 norm of its update, 0 or more.
        """
        self.metrics[client] = metrics
        self._norms[client] = norm

    def retry(self, client: int, failure: str) -> None:
        """Note that a client had to run again, and why."""
        self._retried[client] = in_one_line(failure)
        log.warning("round %d: client %d ran again: %s", self._round, client, self._retried[client])

    def shorten(self, arrays: dict[int, list[str]]) -> None:
        """Note which clients' statistics were too far from the others'; ``outliers`` has shortened their changes."""
        self._shortened = arrays
        if arrays:
            told = "; ".join(f"client {client}: {len(names)}, {names[0]} first" for client, names in arrays.items())
            log.info("round %d: statistics far from the others' shortened (%s)", self._round, told)

    def refuse(self, client: int, reason: str, lasting: str = "", distrusted: bool = False) -> None:
        """Note that a client is left out.

        Args:
            client: its number.
            reason: why.
            lasting: what to do, if the same round would fail in the same way again.
            distrusted: it is left out for what it has sent, not because it could not send anything.
        """
        if distrusted:
            self.distrusted.add(client)
        if lasting:
            self._lasting[client] = lasting
        self.refused[client] = in_one_line(reason)
        log.warning("round %d: client %d left out: %s", self._round, client, self.refused[client])

    def require(self, enough: int, asked: int) -> None:
        """End the run if there are fewer than ``enough`` valid replies.

        Raises:
            FedShieldError: with the reasons of all ``asked`` clients that gave none, each reason once.
        """
        if len(self.metrics) < enough:
            clients: dict[str, list[int]] = {}
            for client, reason in self.refused.items():
                clients.setdefault(reason, []).append(client)
            reasons = "; ".join(f"client {', '.join(map(str, those))}: {reason}" for reason, those in clients.items())
            hints = "".join(f"; {hint}" for hint in dict.fromkeys(self._lasting.values()))
            # Would there be enough replies if all the other clients answered well?
            kind = DeadEndError if asked - len(self._lasting) < enough else FedShieldError
            raise kind(
                f"round {self._round}: {len(self.metrics)} valid replies of {asked}, federation.min-fraction asks for "
                f"{enough}: {reasons}{hints}"
            )

    def median_norm(self) -> float:
        """Return the median L2 norm of the updates; of two in the middle the smaller, which no liar raises."""
        return median_low(self._norms.values())

    def report(self, loss: Any, sent: int) -> dict[str, Any]:
        """Return the round's part of ``metrics.jsonl``.

        Args:
            loss: of all clients together; None where the round has no new model.
            sent: bytes of the arrays that have gone out.
        """
        return {
            **({} if loss is None else {"loss": loss, "update-norm": self.median_norm()}),
            "clients": {
                str(client): {**record, "update-norm": self._norms[client]} for client, record in self.metrics.items()
            },
            "refused": {str(client): reason for client, reason in self.refused.items()},
            "shortened": {str(client): ", ".join(names) for client, names in self._shortened.items()},
            "retried": {str(client): reason for client, reason in self._retried.items()},
            "bytes": {"sent": sent, "received": self._received},
        }
