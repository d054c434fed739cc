"""Datasets that are downloaded: their hashes are checked, and torchvision reads them.

The true files cannot be had here. Small ones in their formats stand in for them, and their hashes for the true ones;
the code is the same.
"""

import gzip
import hashlib
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from scipy.io import savemat

from common.data.datasets import load_data
from common.data.downloads import CIFAR_SHA256, PUBLISHED
from common.errors import FedShieldError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decoded is kept by the dataset's name."""
    monkeypatch.setenv("FEDSHIELD_CACHE", str(tmp_path_factory.mktemp("cache")))


class _Trap:
    """Unpickling it writes a file: the proof that something was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.path),))


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def write_cifar(root: Path, kind: str, content: object, monkeypatch: pytest.MonkeyPatch | None = None) -> Path:
    """Write an archive laid out like CIFAR's, with the same content in each batch."""
    source: Any = getattr(torchvision.datasets, kind)
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    names = [name for name, _ in (*source.train_list, *source.test_list)]
    for name in names:
        (folder / name).write_bytes(pickle.dumps(content))
    meta = pickle.dumps({source.meta["key"]: list("abcdefghij")})
    (folder / source.meta["filename"]).write_bytes(meta)
    archive = root / source.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    if monkeypatch is not None:
        monkeypatch.setitem(CIFAR_SHA256, kind, hashlib.sha256(archive.read_bytes()).hexdigest())
        for part in ("train_list", "test_list"):
            monkeypatch.setattr(source, part, [(name, md5(pickle.dumps(content))) for name, _ in getattr(source, part)])
        monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5(meta)})
    return archive


@pytest.mark.parametrize("kind", ["CIFAR10", "CIFAR100"])
def test_cifar_with_a_wrong_hash_is_never_unpickled(tmp_path: Path, kind: str) -> None:
    archive = write_cifar(tmp_path / "root", kind, _Trap(tmp_path / "sprung"))
    with pytest.raises(FedShieldError, match=f"{archive}: SHA-256 is [0-9a-f]{{64}}, expected {CIFAR_SHA256[kind]}"):
        load_data(kind.lower(), str(tmp_path / "root"), 32)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(("kind", "labels", "batches"), [("CIFAR10", "labels", 5), ("CIFAR100", "fine_labels", 1)])
def test_cifar_is_read_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, labels: str, batches: int
) -> None:
    rows = RNG.integers(0, 256, (10, 3072), dtype=np.uint8)
    write_cifar(tmp_path, kind, {"data": rows, labels: list(range(10))}, monkeypatch)
    splits = load_data(kind.lower(), str(tmp_path), 32)
    assert splits.train.images.shape == (10 * batches, 3, 32, 32)
    assert np.array_equal(splits.test.images.reshape(10, 3072), rows)
    assert splits.train.labels.tolist() == list(range(10)) * batches
    assert splits.train.classes == tuple("abcdefghij")


def test_svhn_has_its_zeros_as_class_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    listed = {}
    for part, (url, file, _) in torchvision.datasets.SVHN.split_list.items():
        if part != "extra":
            savemat(tmp_path / file, {"X": images, "y": np.array([[10], [1], [9], [10]], dtype=np.uint8)})
            listed[part] = [url, file, md5((tmp_path / file).read_bytes())]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    splits = load_data("svhn", str(tmp_path), 32)
    assert np.array_equal(splits.train.images, images.transpose(3, 2, 0, 1))
    assert splits.test.labels.tolist() == [0, 1, 9, 0]
    assert splits.test.classes == tuple("0123456789")


def test_fashion_mnist_has_a_black_edge_and_three_equal_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = RNG.integers(0, 256, (2, 28, 28), dtype=np.uint8), np.array([0, 9], dtype=np.uint8)
    resources = []
    for file in PUBLISHED["fashion-mnist"].files:
        array = labels if "labels" in file else images
        head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(gzip.compress(head + array.tobytes()))
        resources.append((Path(file).name, md5((tmp_path / file).read_bytes())))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    found = load_data("fashion-mnist", str(tmp_path), 32).test
    assert found.images.shape == (2, 3, 32, 32)
    for channel in range(3):
        assert np.array_equal(found.images[:, channel, 2:30, 2:30], images)
    assert found.images.sum() == 3 * images.sum(dtype=np.int64)
    assert found.labels.tolist() == [0, 9]
    assert (found.classes[0], found.classes[9]) == ("T-shirt or top", "Ankle boot")  # a class may name a folder


def test_what_is_looked_for_is_what_torchvision_downloads() -> None:
    sets = torchvision.datasets
    assert PUBLISHED["cifar100"].files == (sets.CIFAR100.filename,)
    assert PUBLISHED["svhn"].files == tuple(sets.SVHN.split_list[part][1] for part in ("train", "test"))
    raw = tuple(f"FashionMNIST/raw/{file}" for file, _ in sets.FashionMNIST.resources)
    assert PUBLISHED["fashion-mnist"].files == raw


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", "http://127.0.0.1:1/none.tar.gz")
    (tmp_path / "cifar-100-python.tar.partial").write_bytes(b"left by a download that was killed")
    told = r"cifar-100-python\.tar\.gz: not found, and the download failed \(.*refused.*\); put the file there by hand"
    with pytest.raises(FedShieldError, match=told):
        load_data("cifar100", str(tmp_path), 32)
    assert list(tmp_path.iterdir()) == []
