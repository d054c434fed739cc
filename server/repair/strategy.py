"""The rounds of a run that is repaired: from other models, to other clients, with other settings than configured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from common.data.datasets import Dataset
from common.errors import DeadEndError
from common.messages.protocol import CHANGES
from common.messages.records import to_record, to_state
from common.messages.shared_slice import shared_digest, shared_record
from server.aggregation.round_report import RoundReport
from server.aggregation.strategy import SharedDataFedAvg
from server.repair.rounds import RoundRepair

Slice = Callable[[float], Dataset]
"""From a share of the pool to what the clients receive of it."""


class EndedEarly(Exception):  # noqa: N818 - not an error: Flower's loop has no other way out
    """Repair has ended the training; all that it has done is stored."""


class _NoModelError(Exception):
    """A round has ended without a new model."""


class RepairingFedAvg(SharedDataFedAvg):
    """``SharedDataFedAvg``, with what ``repair`` decides between two rounds.

    Args:
        arguments: of ``SharedDataFedAvg``.
        repair: decides.
        take: returns a larger slice of the pool.
        own: images of its own that each client has.
        keywords: of ``SharedDataFedAvg``.
    """

    def __init__(self, *arguments: Any, repair: RoundRepair, take: Slice, own: Sequence[int], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._repair, self._take, self._own, self._share = repair, take, own, 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of ``SharedDataFedAvg.configure_train``, treated.

        Raises:
            EndedEarly: there are no more rounds.
        """
        self._repair.begin(to_state(arrays))
        treatment = self._repair.treatment
        if treatment.end:
            raise EndedEarly
        if treatment.sharing > self._share:
            self._send_more(treatment.sharing)
        self.cohort = replace(self.cohort, away=treatment.set_aside(server_round + self.completed_rounds))
        if treatment.back:
            arrays = to_record(self._repair.start_from(to_state(arrays)))
            self.begin_anew()
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if changes := self._repair.changes():
            for message in messages:
                message.content[CHANGES] = ConfigRecord({**changes})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the valid replies; where training has diverged so far that too few are, the model stays as it is."""
        try:
            return super().aggregate_train(server_round, replies)
        except _NoModelError:
            return None, None

    def _require(self, report: RoundReport, asked: int) -> None:
        try:
            super()._require(report, asked)
        except DeadEndError as error:
            self.report = {**report.report(None, self.sent_bytes()), "failed": str(error)}
            self.report |= {"distrusted": sorted(report.distrusted), "signals": {}}
            raise _NoModelError from error

    def _send_more(self, share: float) -> None:
        """Let every client receive a larger slice of the pool with its next message."""
        more = self._take(share)
        self._share, self.shared = share, shared_record(more)
        self._digest, self._holders = shared_digest(self.shared), set()
        self.cohort = replace(self.cohort, examples=tuple(images + len(more.labels) for images in self._own))
