"""Tiny ImageNet (Stanford CS231n): 200 classes of 500 training images, of 64×64 pixels; tested on its 10,000 ``val``.

Its own test images have no labels. A folder ``tiny-imagenet-200`` in ``data.root`` is read as it is; without one, the
archive is downloaded there and unpacked for the time of decoding.
"""

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.data.downloads import Extent, Part, fetch
from common.data.image_folders import ImageFile, decode_images, list_images, listing_digest
from common.data.pictures import folder_names
from common.errors import FedShieldError, explain_os_errors

log = logging.getLogger("fedshield")

FOLDER = "tiny-imagenet-200"
ARCHIVE = f"{FOLDER}.zip"
EXTENT = Extent(100_000, 10_000, 200)
_URL, _MD5 = f"http://cs231n.stanford.edu/{ARCHIVE}", "90528d7ca1a48142e341f4ef8d21d0de"


def content_key(root: Path, size: int) -> str:
    """Return what differs when the folder's images do; without a folder, a name for those of the archive.

    Args:
        root: ``data.root``, absolute.
        size: side of the images, in pixels.
    """
    if not (folder := root / FOLDER).is_dir():
        return f"archive-{size}"
    train, test = _list(folder)
    return listing_digest(f"{folder} {size}", [*train.values(), *test.values()])


def read(root: Path, size: int) -> tuple[Part, Part]:
    """Return the training and the test part, images uint8 [N,3,size,size].

    Args:
        root: as in ``content_key``; the archive is downloaded there if neither it nor the folder is.
        size: as there; images of another size are resized.

    Raises:
        FedShieldError: the download fails, or the folder has not its layout.
    """
    if (folder := root / FOLDER).is_dir():
        return _read(folder, size)
    archive = fetch(_URL, root / ARCHIVE, "md5", _MD5)
    with explain_os_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as there:
        shutil.unpack_archive(archive, there)
        return _read(Path(there) / FOLDER, size)


def _read(folder: Path, size: int) -> tuple[Part, Part]:
    train, test = _list(folder)
    names = folder_names(_names(folder, [*train]))
    log.info("Decoding %d images of %s (once)", sum(map(len, (*train.values(), *test.values()))), folder)
    return _decode(train, names, size), _decode(test, names, size)


def _decode(groups: Mapping[str, Sequence[ImageFile]], names: tuple[str, ...], size: int) -> Part:
    entries = [(file.path, label) for label, files in enumerate(groups.values()) for file in files]
    images = decode_images([path for path, _ in entries], size)
    return images, np.array([label for _, label in entries], dtype=np.int64), names


def _list(folder: Path) -> tuple[dict[str, list[ImageFile]], dict[str, list[ImageFile]]]:
    """Return the files of each class, for training and for testing, by the classes' WordNet numbers, sorted."""
    train = list_images(folder / "train")
    annotations = folder / "val" / "val_annotations.txt"
    with explain_os_errors(annotations):
        lines = [line.split("\t") for line in annotations.read_text("utf-8").splitlines() if line.strip()]
    class_of = {line[0]: line[1] for line in lines if len(line) > 1}
    test: dict[str, list[ImageFile]] = {number: [] for number in train}
    for file in list_images(folder / "val").get("images", []):
        if (number := class_of.get(Path(file.path).name)) not in test:
            raise FedShieldError(f"{annotations}: no class of train for {Path(file.path).name}; download it again")
        test[number].append(file)
    for groups, part in ((train, "train"), (test, "val")):
        if not groups or (empty := next((number for number, files in groups.items() if not files), None)):
            raise FedShieldError(f"{folder / part}: no images{f' of {empty}' if groups else ''}; download it again")
    return train, test


def _names(folder: Path, numbers: Sequence[str]) -> list[str]:
    """Return the first word for each class that ``words.txt`` has; its number where it has none, or another's."""
    path = folder / "words.txt"
    with explain_os_errors(path):
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
    words = {number: text.split(",")[0].strip() for number, _, text in (line.partition("\t") for line in lines)}
    names = [words.get(number) or number for number in numbers]
    return [name if names.count(name) == 1 else number for name, number in zip(names, numbers, strict=True)]
