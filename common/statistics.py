"""Intervals and tests: every 95 % interval and every p-value of FedShield is computed here, by SciPy.

SciPy is imported when it is first used. Evaluations may use ``scipy.stats``, which takes over a second to import: the
attacks, that is torchattacks, have imported it by then. Tables come without a model; they use ``scipy.special``, on
which ``scipy.stats`` itself is built, and which loads faster. SciPy has no interval for paired shares.
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
        hits: number of successes, from 0 to n.
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


def joint_interval(values: Sequence[float], image_variance: float, n: int) -> tuple[float, float, float] | None:
    """Return the mean over seeds and its 95 % interval for other seeds *and* other test images; None for one seed.

    All seeds share the same n images, so the mean has two independent errors. Each has its own interval: Student's t
    over the seeds, and z √(variance / n) for the images. The half widths add like errors, as the square root of the sum
    of their squares (Zou and Donner 2008, Statistics in Medicine 27:1693, equation 3), so that the result is never
    narrower than either.

    Args:
        values: the figures of two runs or more that differ in the seed alone.
        image_variance: of the mean outcome of an image over the seeds, or more than it, >= 0.
        n: test images, >= 1.
    """
    if not (seeds := t_interval(values)):
        return None
    mean, low, _ = seeds
    half = math.hypot(mean - low, _Z * math.sqrt(image_variance / n))
    return mean, mean - half, mean + half


def outcome_variance(share: float, n: int) -> float:
    """Return the variance of one outcome where this share of n succeeded; two successes and two failures are added.

    Without these (Agresti and Coull 1998, The American Statistician 52:119) it would be zero where all n succeeded.
    """
    likely = (share * n + 2) / (n + 4)
    return likely * (1 - likely)


def mean_share(shares: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean of shares and its 95 % interval by Student's t, within [0, 1].

    Where all shares are equal, their spread says nothing: the interval is then Wilson's for as many single outcomes.

    Args:
        shares: float64 [N], in [0, 1], one of each independent image, such as the share of its versions that are
            classified correctly; N >= 1.
    """
    mean, n = float(shares.mean()), len(shares)
    if (shares == shares[0]).all():
        return mean, *wilson_interval(round(mean * n), n)
    _, low, high = t_interval(shares.tolist()) or (mean, 0.0, 1.0)
    return mean, max(0.0, low), min(1.0, high)


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


def difference(first: Mask, second: Mask) -> tuple[float, float, float]:
    """Return how much more of the same N images ``second`` classifies correctly, with its 95 % interval; in points.

    Args:
        first: bool [N], which images are correct, N >= 1.
        second: the same of another model.
    """
    n = len(first)
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    low, high = paired_interval(gained, lost, n)
    return 100 * (gained - lost) / n, 100 * low, 100 * high


def paired_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a difference between two shares of the same n pairs.

    Tango 1998, Statistics in Medicine 17:891. It keeps its level where few pairs differ, and has a width where none
    does: z² / (n + z²) to either side. Its ends are the differences d for which

        (gained - lost - n d) / √(n (2 q + d (1 - d))) = ±z.

    Here q is the most likely share of lost pairs if the difference is d, the larger root of

        2 n q² + ((2 n - gained + lost) d - gained - lost) q - lost d (1 - d) = 0.

    Args:
        gained: pairs that only the second has.
        lost: pairs that only the first has.
        n: pairs in all, >= 1.

    Returns:
        Both ends, in [-1, 1].
    """
    return -_upper_end(lost, gained, n), _upper_end(gained, lost, n)


def auc_interval(auc: float, members: int, others: int) -> tuple[float, float]:
    """Return the 95 % interval of an area under the ROC curve, for the sample of images on both sides.

    Hanley and McNeil 1982 (Radiology 143:29) give the variance of an area A of m and n scores; Newcombe 2006
    (Statistics in Medicine 25:559, method 5) puts N = (m + n) / 2 for both in its numerator, and takes the areas that
    are z standard errors *of their own* away, as Wilson does for shares. So the interval stays within [0, 1], and has a
    width where the sides are separated completely:

        A (1 - A) (1 + (N - 1) (1 - A) / (2 - A) + (N - 1) A / (1 + A)) / (m n).

    Args:
        auc: in [0, 1].
        members: m, scores on one side, >= 1.
        others: n, scores on the other, >= 1.

    Returns:
        Both ends, in [0, 1].
    """
    return 1 - _upper_area(1 - auc, members, others), _upper_area(auc, members, others)


def _upper_area(auc: float, members: int, others: int) -> float:
    """Find the end by halving, as ``_upper_end`` does."""
    more = (members + others) / 2 - 1

    def inside(area: float) -> bool:
        variance = area * (1 - area) * (1 + more * (1 - area) / (2 - area) + more * area / (1 + area))
        return area - auc <= _Z * math.sqrt(variance / (members * others))

    low, high = auc, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) else (low, middle)
    return high


def _upper_end(gained: int, lost: int, n: int) -> float:
    """Find the end by halving: above the estimate the equation holds once; at the estimate it may hold as well."""

    def inside(d: float) -> bool:
        b = (2 * n - gained + lost) * d - gained - lost
        q = (math.sqrt(max(0.0, b * b + 8 * n * lost * d * (1 - d))) - b) / (4 * n)
        return n * d - gained + lost <= _Z * math.sqrt(n * max(0.0, 2 * q + d * (1 - d)))

    low, high = (gained - lost) / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) else (low, middle)
    return high
