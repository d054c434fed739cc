"""MedMNIST (Yang et al. 2023, Scientific Data 10:41) by ``medmnist:NAME``: medical images, by its own package."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.downloads import Part, fetch
from common.data.pictures import folder_names, to_pixels
from common.errors import FedShieldError
from common.paths import to_install
from common.words import near

_SIDES = (28, 64, 128, 224)  # in which it is published


def place(name: str, root: Path, size: int) -> Path:
    """Return the file of a dataset: the one whose images are just as large as needed, or larger.

    Args:
        name: ``medmnist:NAME``.
        root: ``data.root``, absolute.
        size: side of the images, in pixels; up to 32, those of 28 are taken.
    """
    flag = name.removeprefix("medmnist:")
    return root / f"{flag}{_suffix(size)}.npz"


def read(name: str, root: Path, size: int) -> tuple[Part, Part]:
    """Return the training and the test part; MedMNIST's validation images are not used.

    Args:
        name: as in ``place``.
        root: as there; the file is downloaded there if it is missing.
        size: side of the images, in pixels; others are resized.

    Raises:
        FedShieldError: the package is not installed, or there is no such dataset, or not one with one label an image.
    """
    info = _info(name)
    suffix = _suffix(size)
    path = fetch(info[f"url{suffix}"], place(name, root, size), "md5", info[f"MD5{suffix}"])
    classes = folder_names(info["label"][str(number)] for number in range(len(info["label"])))
    with np.load(path) as file:
        train, test = (_part(file[f"{part}_images"], file[f"{part}_labels"], size) for part in ("train", "test"))
    return (*train, classes), (*test, classes)


def count_classes(name: str) -> int:
    """Return how many classes a dataset has, whether it is downloaded or not; errors are those of ``read``."""
    return len(_info(name)["label"])


def _suffix(size: int) -> str:
    side = 28 if size <= 32 else next((side for side in _SIDES if side >= size), _SIDES[-1])
    return "" if side == 28 else f"_{side}"


def _info(name: str) -> dict[str, Any]:
    """Return what the package knows of a dataset."""
    try:
        from medmnist import INFO
    except ImportError as error:
        raise FedShieldError(
            f"data.name = {name}: the package medmnist is not installed; run: {to_install('medmnist')}"
        ) from error
    flag = name.removeprefix("medmnist:")
    flat = [known for known, info in INFO.items() if "multi-label" not in info["task"] and not known.endswith("3d")]
    if flag not in flat:
        raise FedShieldError(
            f"data.name = {name}: unknown, or not of flat images with one label each; known: {', '.join(flat)}"
            f"{near(flag, flat)}"
        )
    found: dict[str, Any] = INFO[flag]
    return found


def _part(images: NDArray[np.uint8], labels: NDArray[Any], size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images [N,S,S] or [N,S,S,3] as pixels, and labels [N,1] as int64 [N]."""
    from PIL import Image

    return to_pixels(map(Image.fromarray, images), len(images), size), labels.astype(np.int64).reshape(-1)
