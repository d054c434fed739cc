"""What cannot be right in a curve of robust accuracy over epsilon, and how two attacks on the same images compare."""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from common.attacks.threat import L2, LINF, Norm, radius
from common.statistics import Mask, binomial_tail, sign_test

_LEVEL = 0.01  # as in ``sanity_checks``
_LARGE = 64 / 255

Labels = NDArray[np.int64]


def find_curve_warnings(
    robust: Mapping[float, Mask], labels: Labels, norm: Norm = LINF, pixels: int = 0
) -> tuple[str, ...]:
    """Return what cannot be right in a curve of robust accuracy over epsilon, one sentence each.

    Args:
        robust: epsilon in 1/255 -> bool [N], which examples are robust.
        labels: int64 [N], their true classes.
        norm: of epsilon.
        pixels: numbers that an image has, which L2 needs.
    """
    found = []
    for small, large in pairwise(sorted(robust)):
        alone, reverse = only(robust[small], robust[large])
        if sign_test(alone, reverse) < _LEVEL:
            found.append(
                f"the curve rises from epsilon {radius(small, norm)} to {radius(large, norm)}: {alone} images are "
                f"robust at the larger epsilon alone, {reverse} at the smaller one alone; the attack does not work, "
                "since every change that the smaller epsilon allows, the larger one allows too"
            )
    largest, chance = max(robust), chance_of(labels)
    left = int(robust[largest].sum())
    if largest >= 255 * large_radius(norm, pixels) and binomial_tail(left, len(labels), chance) < _LEVEL:
        found.append(
            f"the curve ends at {100 * left / len(labels):.1f} % at epsilon {radius(largest, norm)}, above chance "
            f"({100 * chance:.1f} %): an attack that works would break all images there"
        )
    return tuple(found)


def large_radius(norm: Norm, pixels: int) -> float:
    """Return a radius at which every image can be changed into another; the L2 ball contains that of Linf."""
    return _LARGE * math.sqrt(pixels) if norm == L2 else _LARGE


def chance_of(labels: Labels) -> float:
    """Return the accuracy of the best constant prediction."""
    return float(np.bincount(labels).max()) / len(labels)


def only(broken: Mask, other: Mask) -> tuple[int, int]:
    """Count the examples that are wrong only in the first mask, and only in the second."""
    return int((~broken & other).sum()), int((broken & ~other).sum())
