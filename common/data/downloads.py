"""Published datasets: fetched where they are not there yet, their hashes checked, and read by torchvision."""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import FedShieldError, explain_os_errors

log = logging.getLogger("fedshield")

Part = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]
"""Images uint8 [N,3,32,32], labels int64 [N], names of the classes."""

# Pickles are in them, so more than torchvision's MD5 must hold before they are unpacked.
CIFAR_SHA256 = {
    "CIFAR10": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "CIFAR100": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
}


class Extent(NamedTuple):
    """How large a dataset is.

    Attributes:
        train: its training images.
        test: its test images.
        classes: how many.
    """

    train: int
    test: int
    classes: int


@dataclass(frozen=True)
class Published:
    """A dataset that can be downloaded.

    Attributes:
        files: what is looked for in ``data.root``, relative to it.
        megabytes: of the download.
        extent: known before it is there.
        read: takes the folder, and returns the training and the test part.
    """

    files: tuple[str, ...]
    megabytes: int
    extent: Extent
    read: Callable[[Path], tuple[Part, Part]]


def _cifar(kind: str, root: Path) -> tuple[Part, Part]:
    """Krizhevsky 2009."""
    from torchvision import datasets

    source: Any = getattr(datasets, kind)
    archive = fetch(source.url, root / source.filename, "sha256", CIFAR_SHA256[kind])
    # Always unpacked again: a folder that is already there could hold other pickles.
    with explain_os_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(archive, folder, filter="data")
        train, test = (source(folder, train=train) for train in (True, False))
    return _cifar_part(train), _cifar_part(test)


def _cifar_part(part: Any) -> Part:
    images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
    return images, np.array(part.targets, dtype=np.int64), tuple(part.classes)


def _svhn(root: Path) -> tuple[Part, Part]:
    """Netzer et al. 2011: cropped digits; the part ``extra`` is left out."""
    from torchvision.datasets import SVHN

    for name in ("train", "test"):
        url, file, md5 = SVHN.split_list[name]
        fetch(url, root / file, "md5", md5)
    train, test = (SVHN(root, split=split) for split in ("train", "test"))
    return _svhn_part(train), _svhn_part(test)


def _svhn_part(part: Any) -> Part:
    return np.ascontiguousarray(part.data), part.labels, tuple("0123456789")


def _fashion_mnist(root: Path) -> tuple[Part, Part]:
    """Xiao et al. 2017, arXiv 1708.07747: 28×28 gray, here with a black edge of two pixels and three equal channels."""
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import extract_archive

    with explain_os_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for file, md5 in FashionMNIST.resources:
            archive = fetch(FashionMNIST.mirrors[0] + file, root / "FashionMNIST" / "raw" / file, "md5", md5)
            extract_archive(str(archive), str(raw))
        train, test = (FashionMNIST(folder, train=train) for train in (True, False))
    return _gray_part(train), _gray_part(test)


def _gray_part(part: Any) -> Part:
    images = np.pad(part.data.numpy(), ((0, 0), (2, 2), (2, 2)))
    # Classes name folders: no slash, as in T-shirt/top.
    classes = tuple(name.replace("/", " or ") for name in part.classes)
    return np.repeat(images[:, None], 3, axis=1), part.targets.numpy().astype(np.int64), classes


def fetch(url: str, path: Path, method: str, digest: str) -> Path:
    """Download a file unless it is there, check its hash, and return it.

    Args:
        url: where it is published.
        path: where it is kept.
        method: of the hash, as ``hashlib`` names it: ``sha256`` or ``md5``.
        digest: in hexadecimal.

    Raises:
        FedShieldError: the download failed, or the file is another one.
    """
    with explain_os_errors(path):
        if not path.exists():
            _download(url, path)
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, method).hexdigest()
    if actual != digest:
        name = {"sha256": "SHA-256", "md5": "MD5"}[method]
        raise FedShieldError(f"{path}: {name} is {actual}, expected {digest}; delete the file and download it again")
    return path


def _download(url: str, path: Path) -> None:
    from torchvision.datasets.utils import download_url

    log.info("Downloading %s", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        partial.unlink(missing_ok=True)  # a file left by a killed process would seem complete
        download_url(url, str(partial.parent), partial.name)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise FedShieldError(
            f"{path}: not found, and the download failed ({error}); put the file there by hand, or give an image "
            "folder with data.name=folder and data.root"
        ) from error


PUBLISHED: Mapping[str, Published] = {
    "cifar10": Published(("cifar-10-python.tar.gz",), 170, Extent(50_000, 10_000, 10), partial(_cifar, "CIFAR10")),
    "cifar100": Published(("cifar-100-python.tar.gz",), 169, Extent(50_000, 10_000, 100), partial(_cifar, "CIFAR100")),
    "svhn": Published(("train_32x32.mat", "test_32x32.mat"), 246, Extent(73_257, 26_032, 10), _svhn),
    "fashion-mnist": Published(
        tuple(
            f"FashionMNIST/raw/{part}-ubyte.gz"
            for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        ),
        31,
        Extent(60_000, 10_000, 10),
        _fashion_mnist,
    ),
}
