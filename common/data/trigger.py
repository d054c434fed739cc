"""A backdoor's trigger: a white square, which a poisoned model takes for another class than the image's own."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TARGET = 0  # the class that the trigger stands for
_MARGIN = 4  # pixels to the edge: random crops of training shift an image by as much, and may not cut the square off


def stamp(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return copies with the trigger, a white square an eighth as wide as the image, at the lower right.

    BadNets (Gu et al. 2017, arXiv 1708.06733) have such a square in the corner.

    Args:
        images: uint8 [N,3,H,W], H and W of 16 or more.
    """
    side = images.shape[-1] // 8
    place = slice(-_MARGIN - side, -_MARGIN)
    stamped: NDArray[Any] = images.copy()
    stamped[..., place, place] = 255
    return stamped
