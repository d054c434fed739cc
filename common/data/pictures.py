"""Decoded pictures as pixels of a run."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # for a run without image files
    from PIL.Image import Image as Picture


def to_pixels(pictures: Iterable["Picture"], count: int, size: int) -> NDArray[np.uint8]:
    """Return pictures as RGB, uint8 [count,3,size,size]; those of another size are resized.

    Args:
        pictures: decoded, one after the other.
        count: how many.
        size: side of the square, in pixels.
    """
    from PIL import Image

    pixels = np.empty((count, 3, size, size), dtype=np.uint8)
    for row, picture in enumerate(pictures):
        image = picture.convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        pixels[row] = np.asarray(image).transpose(2, 0, 1)
    return pixels


def folder_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of classes as they can name folders: no slash, as in T-shirt/top."""
    return tuple(name.replace("/", " or ") for name in names)
