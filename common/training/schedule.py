"""The learning rate over the rounds of a federation, or over the epochs of centralized training."""

import math
from collections.abc import Sequence

_PEAK = 0.4  # where the cyclic rate is highest, as a share of the run


def learning_rate(kind: str, base: float, number: int, total: int, milestones: Sequence[int], warmup: int) -> float:
    """Return the rate of round ``number``.

    Args:
        kind: ``milestones``: divided by ten after each milestone that is past (He et al. 2016, arXiv 1512.03385);
            ``cosine``: half a cosine from ``base`` to near 0 (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5,
            without restarts); ``cyclic``: one triangle that rises to ``base`` over the first 40 % of the rounds and
            falls to near 0 (Smith 2017, arXiv 1506.01186; Wong et al. 2020, arXiv 2001.03994).
        base: > 0.
        number: of the round, in [1, total].
        total: rounds of the run.
        milestones: rounds, in increasing order.
        warmup: rounds over which the rate rises linearly from base / warmup to what it would be; 0 = none.
    """
    done = (number - 1) / total
    if kind == "cosine":
        rate = base * (1 + math.cos(math.pi * done)) / 2
    elif kind == "cyclic":
        middle = (number - 0.5) / total  # a rate for the round as a whole: neither its first nor its last one is 0
        rate = base * min(middle / _PEAK, (1 - middle) / (1 - _PEAK))
    else:
        rate = base * 0.1 ** sum(number > milestone for milestone in milestones)
    return rate * min(1.0, number / warmup) if warmup else rate
