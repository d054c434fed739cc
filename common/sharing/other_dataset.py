"""Images of another dataset with the same classes."""

import logging
from pathlib import Path

import numpy as np

from common.data.datasets import Dataset
from common.data.draws import balanced_subset
from common.data.image_folders import ImageFile, decode_images, list_images
from common.data.pictures import SQUASH
from common.errors import FedShieldError, explain_os_errors
from common.words import some

log = logging.getLogger("fedshield")

_KEY = "sharing.root"
_NAMED = 5  # classes in a line


def images_of_classes(root: Path, classes: tuple[str, ...]) -> dict[str, list[ImageFile]]:
    """Return the image files of each class in an image folder, ``<class>/*``; other classes too.

    Args:
        root: the folder, absolute.
        classes: names; each must have images there.

    Raises:
        FedShieldError: there is no such folder, or a class is missing.
    """
    with explain_os_errors(root):
        there = root.is_dir()
    if not there:
        raise FedShieldError(f"{_KEY}: no folder {root}; give an image folder, with a subfolder for each class")
    groups = list_images(root)
    if missing := [name for name in classes if not groups.get(name)]:
        raise FedShieldError(
            f"{_KEY} = {root}: has no images of {some(missing, _NAMED)}; it needs a subfolder with images for each "
            "class of the run, of the same name"
        )
    return groups


def other_dataset(
    root: Path, classes: tuple[str, ...], size: int, fraction: float, seed: int, resize: str = SQUASH
) -> Dataset:
    """Read a share of an image folder, balanced over the classes; only these images are decoded.

    Args:
        root: the folder, absolute; its folders of other classes are ignored, and a line says so.
        classes: names, by label; each must have images there.
        size: side of the images, in pixels; others are resized.
        fraction: share of the images of these classes, in (0, 1]; one image or more.
        seed: of the run; decides which.
        resize: how images become square, as in ``decode_images``.

    Raises:
        FedShieldError: as in ``images_of_classes``; or a file is not a readable image.
    """
    groups = images_of_classes(root, classes)
    if others := sorted(set(groups) - set(classes)):
        log.info("%s: folders of other classes are ignored: %s", root, some(others, _NAMED))
    entries = [(file.path, label) for label, name in enumerate(classes) for file in groups[name]]
    labels = np.array([label for _, label in entries], dtype=np.int64)
    rows = balanced_subset(labels, max(1, round(fraction * len(labels))), seed, "other-dataset")
    return Dataset(decode_images([entries[row][0] for row in rows], size, resize), labels[rows], classes)
