"""Image files in folders, one subfolder a class: listing and decoding them."""

import hashlib
import os
import stat
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.pictures import SQUASH, in_color, to_pixels
from common.errors import RENAME, FedShieldError, explain_os_errors, is_text

if TYPE_CHECKING:  # for a run without image files
    from PIL.Image import Image as Picture

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_DECODING = 3  # what is in the cache was decoded so; 2: gray images of 32 bits were cut; 1: orientation, 16 bits too


class ImageFile(NamedTuple):
    """A file that may be an image, with what tells that it has changed: its size in bytes and its time in ns."""

    path: str
    size: int
    changed: int


def list_images(folder: Path, left_out: list[str] | None = None) -> dict[str, list[ImageFile]]:
    """Return the image files of each class, sorted; none for a subfolder without images.

    As in torchvision's ImageFolder, the folders within a class's folder count too. What an operating system leaves
    behind (hidden files, ``__MACOSX``) does not.

    Args:
        folder: one subfolder a class.
        left_out: takes the paths of files that are no images by their names, and of images in no class's folder.

    Raises:
        FedShieldError: a folder cannot be read or has a name that is no text, a link leads nowhere, or what is named as
            an image is no file.
    """
    groups: dict[str, list[ImageFile]] = {}
    check_link(folder)
    for entry in _entries(folder):
        if _is_folder(entry):
            if not is_text(entry.name):
                raise FedShieldError(f"{folder}: the folder {entry.name!r} is not named in UTF-8; {RENAME}")
            groups[entry.name] = sorted(_images(entry.path, frozenset(), left_out))
        elif left_out is not None and _is_named_image(entry):
            left_out.append(entry.path)
    return groups


def _images(folder: str, above: frozenset[tuple[int, int]], left_out: list[str] | None) -> list[ImageFile]:
    """Return the images below a folder; a link back to a folder ``above`` is not followed."""
    images = []
    with explain_os_errors(Path(folder)):
        status = os.stat(folder)
        here = status.st_dev, status.st_ino
        for entry in () if here in above else _entries(folder):
            if _is_folder(entry):
                images += _images(entry.path, above | {here}, left_out)
            elif _is_named_image(entry):
                images.append(_image_file(entry))
            elif left_out is not None:
                left_out.append(entry.path)
    return images


def _entries(folder: Path | str) -> "list[os.DirEntry[str]]":
    """Return what is in a folder, sorted, without what an operating system leaves there."""
    with explain_os_errors(Path(folder)), os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not is_litter(entry.name)), key=lambda entry: entry.name)


def is_litter(name: str) -> bool:
    """Return whether a name is one of those that an operating system leaves behind, and no class or image has."""
    return name.startswith(".") or name == "__MACOSX"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Return whether something is a folder, or leads to one: a link that leads nowhere may have been either."""
    if not entry.is_symlink():
        return entry.is_dir()
    check_link(Path(entry.path))
    return entry.is_dir()


def _is_named_image(entry: "os.DirEntry[str]") -> bool:
    return os.path.splitext(entry.name)[1].lower() in _SUFFIXES


def _image_file(entry: "os.DirEntry[str]") -> ImageFile:
    """Return a file; of tens of thousands, each is looked at once, in every process that loads the images."""
    if not entry.is_file():
        _check_file(Path(entry.path))
    status = entry.stat()
    return ImageFile(entry.path, status.st_size, status.st_mtime_ns)


def _check_file(path: Path) -> None:
    """Check that this is a file: opening a pipe would wait forever."""
    check_link(path)
    with explain_os_errors(path):
        if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
            raise FedShieldError(f"{path}: not a file but a pipe, a socket or a device; remove it")


def check_link(path: Path) -> None:
    """Check that a path, if it is a link, leads to something.

    Raises:
        FedShieldError: to nothing, or to what cannot be looked at.
    """
    with explain_os_errors(path):
        try:
            if path.is_symlink():
                path.stat()
        except FileNotFoundError as error:
            raise FedShieldError(
                f"{path}: a link to {os.readlink(path)}, which does not exist; repair or remove it"
            ) from error


def listing_digest(what: str, groups: Iterable[Sequence[ImageFile]]) -> str:
    """Return a name for the content of these files, and for ``what`` is made of it, that differs when one changes."""
    listing = hashlib.sha256(f"{_DECODING} {what}".encode(errors="surrogateescape"))
    for entries in groups:
        for path, size, changed in entries:
            listing.update(f"{path} {size} {changed}\n".encode(errors="surrogateescape"))
    return listing.hexdigest()[:16]


def decode_images(paths: Sequence[str], size: int, resize: str = SQUASH) -> NDArray[np.uint8]:
    """Decode images as RGB, uint8 [N,3,size,size], the way up that cameras note; those of another size are resized.

    Args:
        paths: of the files.
        size: side of the square, in pixels.
        resize: how, as in ``squared``.

    Raises:
        FedShieldError: a file is not a readable image.
    """
    return to_pixels(map(_opened, paths), len(paths), size, resize)


def _opened(path: str) -> "Picture":
    from PIL import Image

    _check_file(Path(path))
    try:
        with Image.open(path) as file:
            return in_color(_upright(file), file.format)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FedShieldError(f"{path}: {_complaint(error)}") from error


def _upright(image: "Picture") -> "Picture":
    """Turn an image as its EXIF data say; where they cannot be read it stays as it is."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, struct.error):
        return image


def _complaint(error: Exception) -> str:
    """Return why an image could not be read, and what to do."""
    if isinstance(error, IsADirectoryError):
        return "is a folder; give the images in it"
    if isinstance(error, OSError) and error.errno is not None:  # an error of the file, not of its content
        return f"{error.strerror}; check the path and the permissions"
    return f"not a readable image ({error}); repair or remove the file"
