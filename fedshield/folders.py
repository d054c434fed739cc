"""Images of a script or a notebook as an image folder, which every process and every later command can read."""

import hashlib
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.datasets import Dataset
from common.data.draws import balanced_subset
from common.data.image_folders import is_litter, list_images
from common.errors import FedShieldError, explain_os_errors
from common.paths import whole_path
from common.words import some
from fedshield.images import class_names, to_dataset

log = logging.getLogger("fedshield")

_HELD_OUT = 5  # one image of so many is a test image, where none are given
_SIDE = 16  # the side of the images of a folder is a multiple of it
_LARGEST = 512
_LONGEST = 60  # characters of a folder's name: at most 255 bytes


def write_folder(data: Any, test: Any | None = None) -> tuple[Path, int]:
    """Write images as an image folder in ``data``, without loss; where it is there already, nothing is done.

    Images whose sides differ, or are no multiples of 16, get a black edge, as Fashion-MNIST does.

    Args:
        data: training images, as in ``to_dataset``.
        test: test images; None takes one of five from ``data``, balanced over the classes.

    Returns:
        The folder, and the side of its images in pixels.

    Raises:
        FedShieldError: as in ``to_dataset``; or a class has no images, or they are larger than 512 pixels.
    """
    train = to_dataset(data, "data")
    if test is None:
        train, tests = _divided(train)
    else:
        tests = to_dataset(test, "test")
    if train.images.shape[2:] != tests.images.shape[2:]:
        raise FedShieldError(
            f"test: images of {tests.images.shape[2:]} pixels, but data has {train.images.shape[2:]}; give one size"
        )
    parts = {"train": train, "test": tests}
    named, others = class_names(data, "data"), () if test is None else class_names(test, "test")
    if named and others and named != others:
        raise FedShieldError(
            f"test: its classes are {some(others, 5)}, those of data {some(named, 5)}; give the same, in one order"
        )
    for name, part in parts.items():
        _check_classes(name, part, train.classes)
    side = _side(train)
    parts = {name: Dataset(_padded(part.images, side), part.labels, train.classes) for name, part in parts.items()}
    digest = hashlib.sha256("".join(part.digest() for part in parts.values()).encode()).hexdigest()[:12]
    folder = whole_path(Path("data") / f"given-{digest}")
    if folder.exists():
        _check_whole(folder, parts)
    else:
        _write(folder, parts)
    log.info("Images: %d for training and %d for tests, in %s", len(train.labels), len(tests.labels), folder)
    return folder, side


def _divided(data: Dataset) -> tuple[Dataset, Dataset]:
    count = len(data.labels)
    rows = balanced_subset(data.labels, max(count // _HELD_OUT, len(data.classes)), 0, "held out", 0.5)
    log.warning("test: not given, so %d of the %d images of data are held out as test images", len(rows), count)
    return data.take(np.setdiff1d(np.arange(count), rows)), data.take(rows)


def _check_classes(name: str, part: Dataset, classes: Sequence[str]) -> None:
    counts = np.bincount(part.labels, minlength=len(classes))
    if len(counts) > len(classes):
        raise FedShieldError(
            f"{name}: label {len(counts) - 1}, but data has {len(classes)} classes; give the same ones"
        )
    if empty := [str(label) for label, count in enumerate(counts) if not count]:
        raise FedShieldError(
            f"{name}: no image of class {', '.join(empty[:5])}; every class needs images for training and for tests"
        )


def _side(data: Dataset) -> int:
    longest = int(max(data.images.shape[2:]))
    side = -(-longest // _SIDE) * _SIDE
    if side > _LARGEST:
        raise FedShieldError(f"data: images of {longest} pixels; {_LARGEST} are the most: make them smaller")
    if data.images.shape[2:] != (side, side):
        log.info("data: images of %d×%d pixels get a black edge, to be %d×%d", *data.images.shape[2:], side, side)
    return side


def _padded(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    gaps = [(side - length) for length in images.shape[2:]]
    return np.pad(images, ((0, 0), (0, 0), *((gap // 2, gap - gap // 2) for gap in gaps)))


def _write(folder: Path, parts: dict[str, Dataset]) -> None:
    """Write one PNG for each image: first elsewhere, so that a folder of this name is complete."""
    from PIL import Image

    with explain_os_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            for name, part in parts.items():
                places = [building / name / word for word in _folders(part.classes)]
                for place in places:
                    place.mkdir(parents=True)
                for number, (pixels, label) in enumerate(zip(part.images, part.labels, strict=True)):
                    file = places[label] / f"{number:07d}.png"
                    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, compress_level=1)
            building.chmod(0o755)
            try:
                building.rename(folder)
            except OSError:
                if not folder.is_dir():  # another process has written the same images meanwhile
                    raise
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _check_whole(folder: Path, parts: Mapping[str, Dataset]) -> None:
    """Check that a folder of earlier holds as many images as were given."""
    for name, part in parts.items():
        found = {word: len(files) for word, files in list_images(folder / name).items()}
        given = np.bincount(part.labels, minlength=len(part.classes)).tolist()
        if found != dict(zip(_folders(part.classes), given, strict=True)):
            raise FedShieldError(
                f"{folder / name}: has {sum(found.values())} images, of the {len(part.labels)} that were written; "
                f"remove {folder}, and it is written again"
            )


def _folders(classes: Sequence[str]) -> list[str]:
    """Return names of folders whose order is that of the classes."""
    words = [re.sub(r"[^\w -]+", " ", name)[:_LONGEST].strip() or "class" for name in classes]
    if words == sorted(set(words)) and not any(map(is_litter, words)):
        return words
    width = len(str(len(words) - 1))
    numbered = [f"{number:0{width}d}" for number in range(len(words))]
    plain = all(word.isdecimal() for word in words)
    return numbered if plain else [f"{number}-{word}" for number, word in zip(numbered, words, strict=True)]
