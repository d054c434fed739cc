"""Image files in folders, one subfolder a class: listing and decoding them."""

import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import FedShieldError, explain_os_errors

if TYPE_CHECKING:  # for a run without image files
    from PIL.Image import Image as Picture

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_DECODING = 2  # what is in the cache was decoded so; 1: neither orientation nor 16 bits were heeded


class ImageFile(NamedTuple):
    """A file that may be an image, with what tells that it has changed: its size in bytes and its time in ns."""

    path: str
    size: int
    changed: int


def list_images(folder: Path) -> dict[str, list[ImageFile]]:
    """Return the image files of each class, sorted; none for a subfolder without images."""
    with explain_os_errors(folder):
        return {
            entry.name: sorted(
                ImageFile(file.path, file.stat().st_size, file.stat().st_mtime_ns)
                for file in os.scandir(entry.path)
                if Path(file.name).suffix.lower() in _SUFFIXES
            )
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
            if entry.is_dir() and not entry.name.startswith(".")
        }


def listing_digest(what: str, groups: Iterable[Sequence[ImageFile]]) -> str:
    """Return a name for the content of these files, and for ``what`` is made of it, that differs when one changes."""
    listing = hashlib.sha256(f"{_DECODING} {what}".encode())
    for entries in groups:
        for path, size, changed in entries:
            listing.update(f"{path} {size} {changed}\n".encode())
    return listing.hexdigest()[:16]


def decode_images(paths: Sequence[str], size: int) -> NDArray[np.uint8]:
    """Decode images as RGB, uint8 [N,3,size,size], the way up that cameras note; those of another size are resized.

    Raises:
        FedShieldError: a file is not a readable image.
    """
    from PIL import Image

    images = np.empty((len(paths), 3, size, size), dtype=np.uint8)
    for row, path in enumerate(paths):
        try:
            with Image.open(path) as file:
                image = _eight_bits(_upright(file)).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise FedShieldError(f"{path}: {_complaint(error)}") from error
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        images[row] = np.asarray(image).transpose(2, 0, 1)
    return images


def _upright(image: "Picture") -> "Picture":
    """Turn an image as its EXIF data say; where they cannot be read it stays as it is."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, struct.error):
        return image


def _eight_bits(image: "Picture") -> "Picture":
    """Return a grey image of 16 bits by its upper bytes, as Pillow itself takes one in colour; others as they are."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))


def _complaint(error: Exception) -> str:
    """Return why an image could not be read, and what to do."""
    if isinstance(error, IsADirectoryError):
        return "is a folder; give the images in it"
    if isinstance(error, OSError) and error.errno is not None:  # of the file, not of what is in it
        return f"{error.strerror}; check the path and the permissions"
    return f"not a readable image ({error}); mend or remove the file"
