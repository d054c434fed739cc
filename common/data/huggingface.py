"""Hugging Face datasets by ``hf:NAME``: from the Hub, or from a folder in ``data.root``, read by their own library."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common.data.downloads import Part
from common.data.image_folders import ImageFile, listing_digest
from common.data.pictures import SQUASH, folder_names, to_pixels
from common.errors import FedShieldError, explain_os_errors
from common.words import some

log = logging.getLogger("fedshield")

_TESTS = ("test", "validation", "valid", "val")  # the first one that a dataset has is its test set
_IMAGES, _LABELS = ("image", "img"), ("label", "labels")  # columns, where there are several of their kind
_SAVED = "dataset_dict.json"  # in a folder that save_to_disk has written


def local_folder(name: str, root: Path) -> Path | None:
    """Return the folder of a dataset that is on this machine: ``NAME`` in ``data.root``; None if it is not there.

    Args:
        name: ``hf:NAME`` or ``hf:NAME:LABEL``.
        root: ``data.root``, absolute.
    """
    folder = root / _parts(name)[0]
    return folder if folder.is_dir() else None


def content_key(name: str, root: Path, size: str) -> str:
    """Return what differs when a dataset has other content: a local folder's files, or the name on the Hub."""
    what = f"{name} {size}"
    if (folder := local_folder(name, root)) is None:
        return hashlib.sha256(what.encode()).hexdigest()[:16]
    with explain_os_errors(folder):
        paths = [Path(place, file) for place, _, files in os.walk(folder) for file in files]
        found = [ImageFile(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(paths)]
    return listing_digest(f"{folder} {what}", [found])


def read(name: str, root: Path, size: int, resize: str = SQUASH) -> tuple[Part, Part]:
    """Return the training and the test part.

    Args:
        name: as in ``local_folder``.
        root: as there.
        size: side of the images, in pixels; others are resized.
        resize: how, as in ``squared``.

    Raises:
        FedShieldError: it cannot be found or downloaded, or it is not clear which columns are images and labels.
    """
    parts = _load(name, root)
    test = next((part for part in _TESTS if part in parts), None)
    if "train" not in parts or test is None:
        raise FedShieldError(
            f"data.name = {name}: has the splits {some([*parts], 10)}; a run needs train, and test or validation: save "
            "it with these into data.root, by save_to_disk of the library datasets"
        )
    if test != "test":
        log.info("%s: has no split test; models are tested on %s", name, test)
    image, label = _columns(name, parts["train"].features)
    classes = _classes(parts["train"], label)
    return tuple(_part(name, parts[part], image, label, classes, size, resize) for part in ("train", test))  # type: ignore[return-value]


def read_column(name: str, root: Path, column: str) -> list[str]:
    """Return what a column has for each training image, as text; the other arguments and errors are those of ``read``.

    Raises:
        FedShieldError: there is no such column.
    """
    train = _load(name, root)["train"]
    if column not in train.features:
        raise FedShieldError(
            f"partition.by = {column!r}: {name} has no such column; it has {some([*train.features], 20)}"
        )
    return [str(value) for value in train[column]]


def _parts(name: str) -> tuple[str, str]:
    """``hf:NAME:LABEL`` -> NAME and LABEL, which may be empty."""
    dataset, _, label = name.removeprefix("hf:").partition(":")
    return dataset, label


def _load(name: str, root: Path) -> Any:
    from datasets import config, load_dataset, load_from_disk

    folder, dataset = local_folder(name, root), _parts(name)[0]
    with _explained(name, root / dataset):
        if folder is None:
            log.info("%s: from the Hugging Face Hub into %s, unless it is there", name, config.HF_CACHE_HOME)
            return load_dataset(dataset)
        log.info("%s: from the folder %s", name, folder)
        return load_from_disk(str(folder)) if (folder / _SAVED).exists() else load_dataset(str(folder))


@contextmanager
def _explained(name: str, folder: Path) -> Iterator[None]:
    """Turn what the library raises, which is of many kinds, into one line."""
    try:
        yield
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise FedShieldError(
            f"data.name = {name}: not in {folder}, and not to be had from the Hugging Face Hub, or not readable "
            f"({type(error).__name__}: {told}); check name and network, or save it there, by save_to_disk"
        ) from error


def _columns(name: str, features: Any) -> tuple[str, str]:
    """Return the columns of the images and of the labels."""
    from datasets import ClassLabel, Image

    kinds = {column: type(feature) for column, feature in features.items()}
    images = [column for column, kind in kinds.items() if kind is Image]
    label = _parts(name)[1]
    labels = [column for column in features if column == label] if label else _of_labels(kinds, ClassLabel)
    image = images if len(images) == 1 else [column for column in images if column in _IMAGES]
    if not image:
        raise FedShieldError(f"data.name = {name}: no column of images among {some([*features], 20)}; use another one")
    if len(labels) != 1:
        which = some(labels or [*features], 20)
        raise FedShieldError(
            f"data.name = {name}: which column has the labels? One of {which}; write data.name=hf:{_parts(name)[0]}:"
            "COLUMN"
        )
    return image[0], labels[0]


def _of_labels(kinds: dict[str, Any], wanted: Any) -> list[str]:
    """Return the columns that may be the labels, a single one where it is clear."""
    named = [column for column in kinds if column in _LABELS]
    of_kind = [column for column, kind in kinds.items() if kind is wanted]
    usual = [column for column in named if column in of_kind] or (named if not of_kind else [])
    return usual[:1] if len(of_kind) != 1 and usual else of_kind


def _classes(train: Any, label: str) -> tuple[str, ...]:
    """Return the names of the classes; of a column without names, its values, sorted."""
    feature = train.features[label]
    return tuple(feature.names) if hasattr(feature, "names") else tuple(map(str, sorted(set(train[label]))))


def _part(name: str, part: Any, image: str, label: str, classes: tuple[str, ...], size: int, resize: str) -> Part:
    given = list(part[label])
    numbers = {each: number for number, each in enumerate(classes)}
    labels = [each if hasattr(part.features[label], "names") else numbers.get(str(each), -1) for each in given]
    if odd := [each for each, number in zip(given, labels, strict=True) if not 0 <= number < len(classes)]:
        raise FedShieldError(
            f"data.name = {name}: {len(odd)} images have no class of the training images (first: {odd[0]!r} in "
            f"{label!r}); use another dataset, or save one without them"
        )
    with _explained(name, Path(label)):
        pixels = to_pixels((row[image] for row in part.select_columns([image])), len(part), size, resize)
    return pixels, np.array(labels, dtype=np.int64), folder_names(classes)
