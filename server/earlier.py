"""What an earlier part of a run has left for the strategy of the part that goes on."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from common.messages.records import State
from common.methods.method import Method
from server.aggregation.outliers import LastRound
from server.aggregation.strategy import OPTIMIZER
from server.run_directory.reader import DEPLOYED
from server.run_directory.writer import RunDir

log = logging.getLogger("fedshield")


def last_round(metrics: Sequence[Mapping[str, Any]]) -> LastRound | None:
    """Return what the next round is judged by; empty if an earlier version has not stored that."""
    last = metrics[-1] if metrics else {}
    update, loss = last.get("update-norm"), last.get("loss")
    return None if update is None or loss is None else LastRound(update, loss)


def counted(run: RunDir, clients: int) -> list[int]:
    """Return the last round in which each client's reply was taken; 0 where what it kept then is not there any more."""
    counted = [0] * clients
    if run.kind != DEPLOYED:
        for line in run.metrics():
            for client in line.get("clients", {}):
                counted[int(client)] = int(line["round"])
    return counted


def losses(run: RunDir, clients: int) -> list[float | None]:
    """Return the loss of each client in the last round in which its reply was taken; None where there is none."""
    losses: list[float | None] = [None] * clients
    for line in run.metrics():
        for client, told in line.get("clients", {}).items():
            losses[int(client)] = float(told["loss"])
    return losses


def kept(run: RunDir, method: Method) -> State:
    """Return what the server has kept in an earlier part of the run.

    Real clients have lost what they kept: for Flower, the part that goes on is another run. What the server kept of
    their method does not fit any more.
    """
    kept = run.load_kept("server")
    if run.kind == DEPLOYED and method.keeps and kept:
        log.warning(
            "the clients of an earlier part of the run are gone: what the method kept starts again with nothing"
        )
        return {name: array for name, array in kept.items() if name.startswith(OPTIMIZER)}
    return kept
