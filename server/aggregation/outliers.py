"""Compares the replies of a round with one another: a lie that is well formed differs from what the others send."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median_high, median_low

import numpy as np
from flwr.app import ArrayRecord

from common.messages.records import LiveArray, record_of
from server.aggregation.reply_checks import Checked

STATISTICS = 2  # times the limit of updates: honest clients differ more in what they see than in what they learn
_LOSS_LIMIT = 10  # how far a loss may be from the others' median, in multiples of that median


@dataclass(frozen=True)
class Verdict:
    """The result of the comparison.

    Attributes:
        believed: the replies to aggregate, by client number.
        refused: client -> why its reply must not be aggregated.
        shortened: client -> the arrays of statistics whose change was too long; ``believed`` has them shortened.
    """

    believed: dict[int, Checked]
    refused: dict[int, str]
    shortened: dict[int, list[str]]


@dataclass(frozen=True)
class LastRound:
    """What the server keeps of a round, to judge the next one by.

    Attributes:
        update_norm: median L2 norm of the updates that were taken.
        loss: mean loss of those clients.
    """

    update_norm: float
    loss: float


def judge(
    replies: Mapping[int, Checked], model: ArrayRecord, limit: float, last_round: LastRound | None = None
) -> Verdict:
    """Refuse replies whose update or loss is an outlier, and bound the change of the others' statistics.

    They are compared with the median over the replies of this round, which an honest majority decides. The first round
    is judged like any other, and a learning rate that rises or falls moves the bounds at once.

    Statistics are not trained but seen: with small batches an honest client's can be far from the others'. So the
    change of such an array is shortened to its bound, and the reply is kept.

    Args:
        replies: by client number.
        model: the global model that they were trained from.
        limit: an update is refused if it is more than this many times as long (L2) as the median one. The change of an
            array of statistics is bounded at twice the limit, or at the array's own length if that is more.
        last_round: its median update norm and its loss, if there was one. It has a vote where the number of replies is
            even, so that of two replies neither decides alone.
    """
    if not replies:
        return Verdict({}, {}, {})
    refused = _stand_out(replies, limit, last_round)
    believed = {client: reply for client, reply in replies.items() if client not in refused}
    bounds = {
        name: max(STATISTICS * limit * median_low(reply.shifts[name] for reply in replies.values()), _norm(model, name))
        for name in next(iter(replies.values())).shifts
    }
    shortened = {}
    for client, reply in believed.items():
        if long := [name for name, bound in bounds.items() if reply.shifts[name] > bound]:
            shortened[client] = long
            believed[client] = _shorten(reply, model, {name: bounds[name] for name in long})
    return Verdict(believed, refused, shortened)


def _stand_out(replies: Mapping[int, Checked], limit: float, last_round: LastRound | None) -> dict[int, str]:
    """Return the clients whose update or loss is too far from the others', with the reasons."""
    votes: list[Checked | LastRound] = [*replies.values()]
    if last_round is not None and len(replies) % 2 == 0:
        votes.append(last_round)
    longest = limit * _median([vote.update_norm for vote in votes])
    median_loss = _median([vote.loss for vote in votes])
    longest_beside = limit * _median([reply.beside_norm for reply in replies.values()])
    reasons = {}
    for client, reply in replies.items():
        if reply.update_norm > longest:
            reasons[client] = (
                f"the norm of its update is {reply.update_norm:.3g}, strategy.update-limit allows {longest:.3g}"
            )
        elif reply.beside_norm > longest_beside:
            reasons[client] = (
                f"the norm of what it sends beside its weights is {reply.beside_norm:.3g}, strategy.update-limit "
                f"allows {longest_beside:.3g}"
            )
        elif abs(reply.loss - median_loss) > _LOSS_LIMIT * max(1.0, abs(median_loss)):
            reasons[client] = f"its loss is {reply.loss:.3g}, the median of this round is {median_loss:.3g}"
    return reasons


def _median(votes: list[float]) -> float:
    """Return the median; of two in the middle the one nearer to zero, since the other may be a liar's."""
    return min(median_low(votes), median_high(votes), key=abs)


def _shorten(reply: Checked, model: ArrayRecord, bounds: Mapping[str, float]) -> Checked:
    """Return a reply whose changes of these arrays are as long as their bounds."""
    arrays = record_of(reply.arrays)
    for name, bound in bounds.items():
        old = model[name].numpy().astype(np.float64)
        change = reply.arrays[name].numpy().astype(np.float64) - old
        arrays[name] = LiveArray((old + change * (bound / reply.shifts[name])).astype(reply.arrays[name].dtype))
    return replace(reply, arrays=arrays)


def _norm(model: ArrayRecord, name: str) -> float:
    return float(np.linalg.norm(model[name].numpy().astype(np.float64)))
