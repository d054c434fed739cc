"""Decoded pictures as pixels of a run."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # for a run without image files
    from PIL.Image import Image as Picture

log = logging.getLogger("fedshield")

SQUASH = "squash"


def to_pixels(pictures: Iterable["Picture"], count: int, size: int, resize: str = SQUASH) -> NDArray[np.uint8]:
    """Return pictures as RGB, uint8 [count,3,size,size]; those of another size are resized, and a line says so.

    Args:
        pictures: decoded, one after the other.
        count: how many.
        size: side of the square, in pixels.
        resize: how, as in ``squared``.
    """
    pixels, others = np.empty((count, 3, size, size), dtype=np.uint8), 0
    for row, picture in enumerate(pictures):
        image = picture if picture.mode == "RGB" else picture.convert("RGB")
        others += image.size != (size, size)
        pixels[row] = np.asarray(squared(image, size, resize)).transpose(2, 0, 1)
    if others:
        log.info("%d of %d images are of another size and become %d×%d pixels (%s)", others, count, size, size, resize)
    return pixels


def squared(image: "Picture", size: int, resize: str) -> "Picture":
    """Return an image as a square of this side.

    Args:
        image: of any size.
        size: in pixels.
        resize: how one that is no square becomes one: ``squash`` changes its shape, ``crop`` takes its middle, ``pad``
            puts black at two of its edges.
    """
    from PIL import Image, ImageOps

    if image.size == (size, size):
        return image
    if resize == "crop":
        return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    if resize == "pad":
        return ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR, color="black")
    return image.resize((size, size), Image.Resampling.BILINEAR)


def resized(size: int, resize: str) -> str:
    """Return what names the size of decoded images in the cache; as in earlier versions for those that are squashed."""
    return f"{size}" if resize == SQUASH else f"{size} {resize}"


def folder_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of classes as they can name folders: no slash, as in T-shirt/top."""
    return tuple(name.replace("/", " or ") for name in names)
