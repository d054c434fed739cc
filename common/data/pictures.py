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
        image = picture if picture.mode == "RGB" else in_color(picture, picture.format)
        others += image.size != (size, size)
        pixels[row] = np.asarray(squared(image, size, resize)).transpose(2, 0, 1)
    if others:
        log.info("%d of %d images are of another size and become %d×%d pixels (%s)", others, count, size, size, resize)
    return pixels


def in_color(image: "Picture", kind: str | None) -> "Picture":
    """Return an image in RGB, of 8 bits.

    Args:
        image: any.
        kind: the format of its file, as Pillow names it; None of one that comes from no file.

    Raises:
        ValueError: a gray one of 32 bits does not say which value is white.
    """
    return _eight_bits(image, kind).convert("RGB")


def _eight_bits(image: "Picture", kind: str | None) -> "Picture":
    """Return a gray image of more than 8 bits with 8; others as they are.

    Of 16 bits the upper ones stay, as Pillow itself does in color. With 32 bits a file does not say which value is
    white: integers must lie in 0 to 255, floats in 0 to 1.

    Args:
        image: any.
        kind: the format of its file, as Pillow names it.

    Raises:
        ValueError: they do not.
    """
    from PIL import Image

    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    values = np.asarray(image)
    if image.mode.startswith("I;") or kind == "PPM":  # a PGM of 16 bits comes as 32
        return Image.fromarray((values.clip(0, 65535) // 256).astype(np.uint8))
    white, what = (1, "floats") if image.mode == "F" else (255, "integers of 32 bits")
    if not (values.min() >= 0 and values.max() <= white):  # also where one is not a number
        raise ValueError(f"gray {what} from {values.min():g} to {values.max():g}, expected 0 to {white}")
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))


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
