"""FedAvg that distributes shared data, checks replies, and gives the same run for the same seed."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from common.errors import FedShieldError
from common.records import shared_digest
from common.seeding import rng_for
from server.guard import Guard

log = logging.getLogger("fedshield")


@dataclass(frozen=True)
class Cohort:
    """Who trains, and how the server chooses among them.

    Attributes:
        nodes: Flower's node id of each client, by client number.
        size: clients that train in a round.
        min_replies: valid replies below which a round ends the run.
        examples: images that each client trains on, shared ones included, by client number.
        seed: the run's seed.
    """

    nodes: tuple[int, ...]
    size: int
    min_replies: int
    examples: tuple[int, ...]
    seed: int

    def sample(self, server_round: int) -> list[int]:
        """Return the clients of a round, rising: a function of the seed and the round, so that a resumed run agrees."""
        rng = rng_for(self.seed, "cohort", server_round)
        return sorted(rng.permutation(len(self.nodes))[: self.size].tolist())


class SharedDataFedAvg(FedAvg):
    """FedAvg (McMahan et al. 2017, arXiv 1602.05629) with globally shared data (Zhao et al. 2018, arXiv 1806.00582).

    Each client receives the shared data with the first message that it answers well, and its digest with every message.
    Without shared data this is Flower's FedAvg, with replies aggregated in client order and integer buffers kept
    integers.

    Args:
        cohort: the clients.
        shared: images and labels for every client, or None.
        done: rounds of an earlier part of the run; Flower counts from 1 again, this strategy goes on from there.
    """

    def __init__(self, cohort: Cohort, shared: ArrayRecord | None, done: int = 0) -> None:
        super().__init__(min_train_nodes=1, min_available_nodes=1)
        self.cohort = cohort
        self.shared = shared
        self.done = done
        self.report: dict[str, Any] = {}
        self._digest = shared_digest(shared) if shared is not None else None
        self._holders: set[int] = set()
        self._guard = Guard(ArrayRecord())

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address the round's clients; those that do not hold the shared data yet get it along."""
        server_round += self.done
        self._guard = Guard(arrays)
        config["server-round"] = server_round
        if self._digest is not None:
            config["shared-digest"] = self._digest
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        with_shared = RecordDict({**record, "shared": self.shared}) if self.shared is not None else record
        messages: list[Message] = []
        for client in self.cohort.sample(server_round):
            content = record if client in self._holders else with_shared
            messages += self._construct_messages(content, [self.cohort.nodes[client]], MessageType.TRAIN)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the valid replies, in client order; too few of them end the run."""
        server_round += self.done
        valid, refused = self._check(server_round, replies)
        if len(valid) < self.cohort.min_replies:
            reasons = "; ".join(f"client {client}: {reason}" for client, reason in sorted(refused.items()))
            raise FedShieldError(
                f"round {server_round}: {len(valid)} valid replies of {self.cohort.size}, "
                f"federation.min-fraction asks for {self.cohort.min_replies}: {reasons}"
            )
        arrays, metrics = super().aggregate_train(server_round, [valid[client] for client in sorted(valid)])
        self.report = {
            "loss": metrics["loss"] if metrics is not None else None,
            "clients": {
                str(client): dict(next(iter(valid[client].content.metric_records.values()))) for client in sorted(valid)
            },
            "refused": {str(client): reason for client, reason in sorted(refused.items())},
        }
        return _keep_integers(arrays, self._guard.reference) if arrays is not None else None, metrics

    def _check(self, server_round: int, replies: Iterable[Message]) -> tuple[dict[int, Message], dict[int, str]]:
        """Sort the round's clients into valid replies and reasons for refusal; a missing reply is a refusal too."""
        client_of = {node: client for client, node in enumerate(self.cohort.nodes)}
        valid: dict[int, Message] = {}
        refused = dict.fromkeys(self.cohort.sample(server_round), "no reply in time")
        for reply in replies:
            client = client_of[reply.metadata.src_node_id]
            reason = self._guard.refuse(reply, self.cohort.examples[client])
            if reason is None:
                valid[client] = reply
                refused.pop(client, None)
            else:
                refused[client] = reason.removeprefix(f"client {client}: ")
        # A client that failed may have lost the shared data, or never have had it: it is sent again.
        self._holders = (self._holders | valid.keys()) - refused.keys()
        for client, reason in sorted(refused.items()):
            log.warning("round %d: client %d left out: %s", server_round, client, reason)
        return valid, refused

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nobody: the server evaluates, on test data."""
        return []


def _keep_integers(arrays: ArrayRecord, reference: ArrayRecord) -> ArrayRecord:
    """Round averaged integer buffers (batch normalisation's counters), which the average has turned into floats."""
    return ArrayRecord(
        {
            name: Array(np.asarray(np.rint(array.numpy()), dtype=reference[name].dtype))
            if np.issubdtype(np.dtype(reference[name].dtype), np.integer)
            else array
            for name, array in arrays.items()
        }
    )
