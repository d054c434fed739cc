"""Compares the replies of a round with one another: a lie that is well formed shows beside what the others send."""

from collections.abc import Mapping
from statistics import median, median_low

import numpy as np
from flwr.app import ArrayRecord

from server.guard import Checked

STATISTICS = 2  # times the limit of updates: honest clients differ more in what they see than in what they learn
_LOSS_LIMIT = 10  # a loss may be so many times as far from the others' median as that is from zero


def outliers(
    replies: Mapping[int, Checked], model: ArrayRecord, limit: float, before: float | None = None
) -> dict[int, str]:
    """Return the clients whose replies must not be aggregated, with the reasons.

    What is usual is the median over the replies of this round, so an honest majority decides it. The first round is
    judged like any other, and a learning rate that rises or falls moves the bounds at once.

    Args:
        replies: by client number.
        model: the global model that they were trained from.
        limit: an update that is more than so many times as long (L2) as the usual one is refused. So is the change of
            an array of statistics, at twice the limit, unless it is shorter than that array was.
        before: the usual length of the last round's updates. It has a vote where the number of replies is even, so that
            of two replies neither decides alone.
    """
    if not replies:
        return {}
    updates = [reply.update for reply in replies.values()]
    # Of two in the middle the smaller one: the larger may be a liar's.
    longest = limit * median_low(updates if before is None or len(updates) % 2 else [*updates, before])
    loss = median(reply.loss for reply in replies.values())
    furthest = _LOSS_LIMIT * max(1.0, abs(loss))
    shifts = {
        name: max(
            STATISTICS * limit * median_low([reply.shifts[name] for reply in replies.values()]), _norm(model, name)
        )
        for name in next(iter(replies.values())).shifts
    }

    def reason(reply: Checked) -> str | None:
        if reply.update > longest:
            return f"the norm of its update is {reply.update:.3g}, strategy.update-limit allows {longest:.3g}"
        if abs(reply.loss - loss) > furthest:
            return f"its loss is {reply.loss:.3g}, the median of this round is {loss:.3g}"
        for name, most in shifts.items():
            if reply.shifts[name] > most:
                return f"array {name} has changed by {reply.shifts[name]:.3g}, strategy.update-limit allows {most:.3g}"
        return None

    return {client: told for client, reply in replies.items() if (told := reason(reply)) is not None}


def _norm(model: ArrayRecord, name: str) -> float:
    return float(np.linalg.norm(model[name].numpy().astype(np.float64)))
