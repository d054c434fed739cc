"""Draws of images that are balanced over the classes."""

import numpy as np
from numpy.typing import NDArray

from common.seeding import rng_for


def balanced_subset(
    labels: NDArray[np.int64], count: int, seed: int, purpose: str, most: float = 1.0
) -> NDArray[np.int64]:
    """Choose ``count`` rows, as equally many of each class as can be, at random; 0 or too many: all of them.

    The choice for a smaller count is contained in the choice for a larger one. Rows are returned in increasing order.

    Args:
        labels: int64 [N], >= 0.
        count: number of rows; there are fewer where ``most`` does not allow as many.
        seed: of the draw, >= 0.
        purpose: of the draw; another purpose draws other rows.
        most: share of a class that may be chosen, in (0, 1]; see ``class_limits``.
    """
    if count == 0 or count >= len(labels):
        return np.arange(len(labels))
    rng = rng_for(seed, purpose)
    shuffled = rng.permutation(len(labels))
    # Rank within the class: taking the lowest ranks takes the classes in turn.
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.concatenate([np.arange(size) for size in counts])
    in_turn = shuffled[np.argsort(rank[shuffled], kind="stable")]
    allowed = in_turn[rank[in_turn] < class_limits(counts, most)[labels[in_turn]]]
    return np.sort(allowed[:count])


def class_limits(counts: NDArray[np.int64], most: float) -> NDArray[np.int64]:
    """Return how many images may be chosen of each class: the share ``most`` of them.

    That is rounded up, but for a class that is smaller than the mean it is rounded down. So a limit never changes a
    choice from classes of one size, and a single image of a rare class stays where it is.

    Args:
        counts: int64 [classes], images of each class.
        most: share, in (0, 1].
    """
    shares = np.round(most * counts, 9)  # 0.19 × 100 is a little more than 19 in floats
    return np.where(counts < counts.sum() // len(counts), np.floor(shares), np.ceil(shares)).astype(np.int64)
