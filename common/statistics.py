"""Intervals and tests: every 95 % interval and every p-value of FedShield is computed here, by SciPy.

SciPy is imported when it is first used. Evaluations may use ``scipy.stats``, which takes over a second to import: the
attacks, that is torchattacks, have imported it by then. Tables come without a model; they use ``scipy.special``, on
which ``scipy.stats`` itself stands, and which loads faster.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

_LEVEL = 0.95  # of every interval
_UPPER = (1 + _LEVEL) / 2
_Z = NormalDist().inv_cdf(_UPPER)  # 1.96


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927; Newcombe 1998, Statistics in Medicine 17:857, method 3).

    Args:
        hits: how often it held, from 0 to n.
        n: how many were looked at, >= 1.

    Returns:
        Both ends, in [0, 1].
    """
    from scipy.stats import binomtest

    found = binomtest(hits, n).proportion_ci(_LEVEL, "wilson")
    return float(found.low), float(found.high)


def sampling_error(n: int) -> float:
    """Return half the widest 95 % interval (at 50 %) of an accuracy on n test images, in percentage points."""
    return 100 * _Z * math.sqrt(0.25 / n)


def t_interval(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the mean and its 95 % interval by Student's t with n - 1 degrees of freedom; None for fewer than 2 values.

    Args:
        values: of n independent runs, in any unit; the result is in the same.
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # what scipy.stats.t.ppf calls

    mean, n = fmean(values), len(values)
    half = float(stdtrit(n - 1, _UPPER)) * stdev(values) / math.sqrt(n)
    return mean, mean - half, mean + half


def binomial_tail(least: int, draws: int, chance: float) -> float:
    """Return the probability of ``least`` or more successes in independent ``draws``: the one-sided binomial test.

    Args:
        least: from 0 to ``draws``.
        draws: how many, >= 0.
        chance: of a success in one draw, in [0, 1].
    """
    from scipy.stats import binom

    return float(binom.sf(least - 1, draws, chance))


def sign_test(first: int, second: int) -> float:
    """Return the probability of ``first`` or more heads in ``first + second`` tosses of a fair coin.

    For paired outcomes (the examples that only one of two attacks breaks) this is the one-sided exact test of McNemar.
    """
    return binomial_tail(first, first + second, 0.5)
