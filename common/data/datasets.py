"""Image sets by name, decoded once into uint8 arrays on disk that every process maps into memory."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.data import huggingface, medmnist, shapes10, tiny_imagenet
from common.data.array_cache import Arrays, find_arrays, keep_arrays
from common.data.downloads import PUBLISHED, Extent, Part
from common.data.image_folders import ImageFile, check_link, decode_images, list_images, listing_digest
from common.data.pictures import SQUASH, resized
from common.errors import FedShieldError, explain_os_errors
from common.paths import cache_dir, whole_path

log = logging.getLogger("fedshield")

_SHAPES_TRAIN, _SHAPES_TEST = 4000, 1000


@dataclass(frozen=True)
class Dataset:
    """Labeled images.

    Attributes:
        images: uint8 [N,3,H,W], usually mapped from disk and read-only.
        labels: int64 [N], in [0, len(classes)).
        classes: names, by label.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def take(self, rows: NDArray[np.int64]) -> "Dataset":
        """Return the examples at ``rows``, in that order, in memory."""
        return Dataset(self.images[rows], self.labels[rows], self.classes)

    def digest(self) -> str:
        """Return a name for these very images, with their labels and the names of the classes."""
        digest = sha256(repr((self.images.shape, self.classes)).encode())
        for array in (self.images, self.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def image_ids(self) -> NDArray[np.uint64]:
        """Return a name for each image with its label, uint64 [N]: the same one in every subset of a dataset."""
        labels = self.labels.astype(np.int64)
        digests = (
            sha256(image.tobytes() + label.tobytes()).digest()[:8]
            for image, label in zip(self.images, labels, strict=True)
        )
        return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


@dataclass(frozen=True)
class Splits:
    """Training and test images with the same classes."""

    train: Dataset
    test: Dataset


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from.

    Attributes:
        key: names the content, so that a changed source is decoded again.
        decode: reads everything; called once for each key.
        at_hand: whether it is on this machine, so that nothing is downloaded.
    """

    key: str
    decode: Callable[[], Splits]
    at_hand: bool = True


def load_data(name: str, root: str, image_size: int, resize: str = SQUASH) -> Splits:
    """Return a dataset, decoding it into the cache when it is not there yet.

    Args:
        name: a key of ``DATASETS``, or one of ``FAMILIES`` and what follows the colon.
        root: folder of the dataset; ``~`` and paths relative to the working directory are resolved.
        image_size: side of the square to which differing images are resized, in pixels; not those of ``PUBLISHED``.
        resize: how, as in ``decode_images``.

    Raises:
        FedShieldError: the dataset is missing, damaged or has a wrong hash; the message names the file.
    """
    if (known := _ADOPTED.get((name, root, image_size, resize))) is not None:
        return _cached(*known)
    source = _source(name, root, image_size, resize)
    return _cached(source.key, source.decode)


def data_key(name: str, root: str, image_size: int, resize: str = SQUASH) -> str:
    """Return the name under which ``load_data`` keeps this dataset in the cache."""
    return _source(name, root, image_size, resize).key


def is_at_hand(name: str, root: str, image_size: int, resize: str = SQUASH) -> bool:
    """Return whether ``load_data`` can do without downloading anything; the arguments are the same."""
    if name == "split":
        return True
    source = _source(name, root, image_size, resize)
    return source.at_hand or find_arrays(cache_dir() / "datasets" / source.key, _ARRAYS) is not None


def _source(name: str, root: str, image_size: int, resize: str) -> Source:
    family = name.partition(":")[0]
    make = partial(FAMILIES[family], name) if family in FAMILIES else DATASETS[name]
    return make(whole_path(root), image_size, resize)


def adopt_data(
    name: str, root: str, image_size: int, key: str, fetch: Callable[[], Splits], resize: str = SQUASH
) -> None:
    """Make ``load_data`` use what another process has found: on this machine, or on one that has the images.

    Args:
        name: as in ``load_data``.
        root: as in ``load_data``; it need not be there.
        image_size: as in ``load_data``.
        key: the dataset's name in the cache.
        fetch: called when this machine's cache does not hold it.
        resize: as in ``load_data``.
    """
    _ADOPTED[name, root, image_size, resize] = key, fetch


def forget_adopted() -> None:
    """Make ``load_data`` find everything by itself again."""
    _ADOPTED.clear()


_ADOPTED: dict[tuple[str, str, int, str], tuple[str, Callable[[], Splits]]] = {}


def _cached(key: str, decode: Callable[[], Splits]) -> Splits:
    """Return the dataset kept under ``key``, decoding it when it is not there."""
    place = cache_dir() / "datasets" / key

    def find() -> Arrays | None:
        return find_arrays(place, _ARRAYS)

    return _to_splits(find() or keep_arrays(place, lambda: _to_arrays(decode()), find))


_ARRAYS = ("train-images", "train-labels", "test-images", "test-labels", "classes")


def _to_arrays(splits: Splits) -> Arrays:
    train, test = splits.train, splits.test
    arrays = train.images, train.labels, test.images, test.labels, np.array(train.classes)
    return dict(zip(_ARRAYS, arrays, strict=True))


def _to_splits(kept: Arrays) -> Splits:
    train_images, train_labels, test_images, test_labels, names = (kept[name] for name in _ARRAYS)
    classes = tuple(map(str, names))
    return Splits(Dataset(train_images, train_labels, classes), Dataset(test_images, test_labels, classes))


def _shapes10(root: Path, image_size: int, resize: str) -> Source:
    def decode() -> Splits:
        train, test = (
            Dataset(*shapes10.generate(train, count), shapes10.CLASSES)
            for train, count in ((True, _SHAPES_TRAIN), (False, _SHAPES_TEST))
        )
        return Splits(train, test)

    return Source("shapes10-1", decode)


def _published(name: str, root: Path, image_size: int, resize: str) -> Source:
    def decode() -> Splits:
        return _splits(PUBLISHED[name].read(root))

    return Source(f"{name}-1", decode, all(os.path.exists(root / file) for file in PUBLISHED[name].files))


def _splits(parts: tuple[Part, Part]) -> Splits:
    return Splits(*(Dataset(*part) for part in parts))


def _hugging_face(name: str, root: Path, image_size: int, resize: str) -> Source:
    key = f"hf-{huggingface.content_key(name, root, resized(image_size, resize))}-2"  # 1: gray ones of 16 bits were cut
    there = huggingface.local_folder(name, root) is not None
    return Source(key, lambda: _splits(huggingface.read(name, root, image_size, resize)), there)


def _medmnist(name: str, root: Path, image_size: int, resize: str) -> Source:
    file = medmnist.place(name, root, image_size)
    key = f"medmnist-{file.stem}-{image_size}-1"
    return Source(key, lambda: _splits(medmnist.read(name, root, image_size)), file.exists())


def _tiny_imagenet(root: Path, image_size: int, resize: str) -> Source:
    there = any((root / name).exists() for name in (tiny_imagenet.FOLDER, tiny_imagenet.ARCHIVE))
    key = f"tiny-imagenet-{tiny_imagenet.content_key(root, image_size)}-1"
    return Source(key, lambda: _splits(tiny_imagenet.read(root, image_size)), there)


def _folder(root: Path, image_size: int, resize: str) -> Source:
    """Any image folder: ``train/<class>/*`` and ``test/<class>/*``."""
    left_out: list[str] = []
    files = {part: _whole_part(root / part, left_out) for part in ("train", "test")}
    classes = tuple(sorted(files["train"]))
    if set(files["test"]) != set(classes):
        odd = ", ".join(sorted(set(files["test"]) ^ set(classes)))
        raise FedShieldError(f"{root}: train and test must have the same classes; only one of them has: {odd}")
    key = listing_digest(
        f"{root} {resized(image_size, resize)}", (group for part in files.values() for group in part.values())
    )

    def decode() -> Splits:
        count = sum(len(entries) for group in files.values() for entries in group.values())
        log.info("Decoding %d images of %s into %s (once)", count, root, cache_dir())
        tell_left_out(left_out)
        train, test = (_decode_part(files[part], classes, image_size, resize) for part in ("train", "test"))
        return Splits(train, test)

    return Source(f"folder-{key}", decode)


def tell_left_out(paths: Sequence[str]) -> None:
    """Log how many files other than the images are ignored."""
    if paths:
        log.info(
            "%d other files are ignored: not named as images, or not in the folder of a class (first: %s)",
            *(len(paths), paths[0]),
        )


def _whole_part(folder: Path, left_out: list[str]) -> dict[str, list[ImageFile]]:
    """List the images of each class; every class must have some."""
    check_link(folder)
    with explain_os_errors(folder):
        there = folder.is_dir()
    if not there:
        raise FedShieldError(
            f"data.root: no folder {folder}; an image folder has train/<class>/* and test/<class>/* (to divide yours: "
            "docs/own.md); give it with --set data.root=DIR (data.name = cifar10 downloads CIFAR-10 instead)"
        )
    groups = list_images(folder, left_out)
    empty = [name for name, entries in groups.items() if not entries]
    if empty or not groups:
        raise FedShieldError(f"{folder / empty[0] if empty else folder}: no images in it; add some or remove it")
    return groups


def _decode_part(groups: dict[str, list[ImageFile]], classes: tuple[str, ...], size: int, resize: str) -> Dataset:
    entries = [(file.path, label) for label, name in enumerate(classes) for file in groups[name]]
    images = decode_images([path for path, _ in entries], size, resize)
    return Dataset(images, np.array([label for _, label in entries], dtype=np.int64), classes)


def _split(root: Path, image_size: int, resize: str) -> Source:
    raise FedShieldError(
        "data.name = split: these images are already divided, and only fedshield run and real clients "
        "can use them; give the original dataset"
    )


DATASETS: dict[str, Callable[[Path, int, str], Source]] = {
    "shapes10": _shapes10,
    **{name: partial(_published, name) for name in PUBLISHED},
    "tiny-imagenet": _tiny_imagenet,
    "folder": _folder,
    "split": _split,
}
EXTENTS: dict[str, Extent] = {
    **{name: published.extent for name, published in PUBLISHED.items()},
    "tiny-imagenet": tiny_imagenet.EXTENT,
}
"""Of the datasets whose size is known before they are there."""
FAMILIES: dict[str, Callable[[str, Path, int, str], Source]] = {"hf": _hugging_face, "medmnist": _medmnist}
