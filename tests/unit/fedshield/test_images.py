"""Arrays, tensors and torch's datasets become an image folder with the same pixels."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import TensorDataset

from common.data.datasets import load_data
from common.errors import FedShieldError
from fedshield.folders import write_folder
from fedshield.images import to_dataset, to_labels, to_pixels

RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 256, (12, 3, 16, 16), dtype=np.uint8)
LABELS = np.arange(12) % 3


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        PIXELS.transpose(0, 2, 3, 1),
        PIXELS.astype(np.int64),
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS) / 255,
        PIXELS / 255,
        list(PIXELS),
    ],
)
def test_all_ways_to_give_images_are_the_same_pixels(given: object) -> None:
    assert np.array_equal(to_pixels(given), PIXELS)


def test_gray_images_get_three_equal_channels() -> None:
    for gray in (PIXELS[:, 0], PIXELS[:, :1], PIXELS[:, 0, :, :, None]):
        assert np.array_equal(to_pixels(gray), np.repeat(PIXELS[:, :1], 3, 1))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (PIXELS / 255 - 0.5, "float64 values from -0.5 to 0.5; give integers from 0 to 255 or floats from 0 to 1"),
        (PIXELS.astype(np.int64) * 2, "int64 values from 0 to 510"),
        (PIXELS[:, :2], r"an array of shape \(12, 2, 16, 16\)"),
        (PIXELS[:0], r"shape \(0, 3, 16, 16\)"),
        (np.full((1, 3, 2, 2), np.nan), "12 of 12 values are not finite"),
        (PIXELS * 1.0, "floats from 0 to 1: divide these by 255"),
        ([PIXELS[0], PIXELS[0, :, :8]], "cannot be one array"),
        ([torch.zeros(3, 2, 2, requires_grad=True)] * 2, "cannot be one array"),
        (np.full((1, 3, 2, 2), "a"), "values not numbers"),
    ],
)
def test_what_are_no_images_is_one_line(given: object, told: str) -> None:
    with pytest.raises(FedShieldError, match=told):
        to_pixels(given)


def test_labels_are_whole_numbers_from_zero() -> None:
    assert np.array_equal(to_labels(torch.from_numpy(LABELS)[:, None], 12), LABELS)
    for wrong, told in ((LABELS[:3], "for 12 images"), (LABELS / 2, "float64"), (LABELS - 1, "-1 is among them")):
        with pytest.raises(FedShieldError, match=told):
            to_labels(wrong, 12)


def test_datasets_of_torch_and_pictures_are_read() -> None:
    tensors = TensorDataset(torch.from_numpy(PIXELS) / 255, torch.from_numpy(LABELS))
    pictures = [
        (Image.fromarray(image.transpose(1, 2, 0)), int(label)) for image, label in zip(PIXELS, LABELS, strict=True)
    ]
    for given in (tensors, pictures, (PIXELS, LABELS)):
        data = to_dataset(given, "data")
        assert np.array_equal(data.images, PIXELS)
        assert np.array_equal(data.labels, LABELS)
    for given, told in ((3, "data: int; give the name of a dataset"), ({"a": 1}, "data: dict; give")):
        with pytest.raises(FedShieldError, match=told):
            to_dataset(given, "data")
    for images in (PIXELS, tensors.tensors[0]):
        with pytest.raises(FedShieldError, match=r"data: images without labels; give a pair \(images, labels\)"):
            to_dataset(images, "data")


class Broken:
    """A dataset whose second item raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> tuple[NDArray[np.uint8], int]:
        if number == 1:
            raise self.error
        return PIXELS[number], 0


class Counted(TensorDataset):
    classes = 5


def test_a_wrong_item_is_named() -> None:
    def items(label: object) -> list[object]:
        return [(PIXELS[0], 0), (PIXELS[1], np.array([1])), (PIXELS[2], label)]

    tensors = torch.from_numpy(PIXELS), torch.from_numpy(LABELS)
    wrong: list[tuple[object, str]] = [
        *((items(label), rf"data\[2\]: label {label!r}; give a whole") for label in (0.9, "0", None, True, -1, 2**63)),
        ([*items(1), PIXELS[0]], r"data\[3\]: ndarray; each item must be \(image, label\)"),
        ([*items(1), {"image": 1, "label": 2}], r"data\[3\]: dict; each item must be"),
        (Broken(RuntimeError("no\nmore")), r"data\[1\]: cannot be read from this Broken \(RuntimeError: no\); each"),
        (Broken(OSError("broken file")), r"data\[1\]: cannot be read from this Broken \(OSError: broken file\)"),
        (pd.DataFrame({"a": [1, 2, 3]}), r"data\[0\]: cannot be read from this DataFrame \(KeyError: 0\)"),
        (Counted(*tensors), "data: its classes = 5; make it a list of names"),
        ((PIXELS, LABELS.astype(np.uint64) + np.uint64(2**63)), "9223372036854775810 is among them; number"),
    ]
    for given, told in wrong:
        with pytest.raises(FedShieldError, match=told):
            to_dataset(given, "data")
    assert to_dataset(items(np.int64(2)), "data").labels.tolist() == [0, 1, 2]


class Named(TensorDataset):
    classes = ("zebra", "ant/eater", "cat")


def rows(images: NDArray[np.uint8]) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


def test_a_folder_has_the_same_pixels_and_classes_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train = Named(torch.from_numpy(PIXELS), torch.from_numpy(LABELS))
    folder, side = write_folder(train, (PIXELS[:3], LABELS[:3]))
    splits = load_data("folder", str(folder), side)
    assert splits.train.classes == ("0-zebra", "1-ant eater", "2-cat")
    for label in range(3):
        assert rows(splits.train.images[splits.train.labels == label]) == rows(PIXELS[label::3])
    assert rows(splits.test.images) == rows(PIXELS[:3])
    changed = (folder / "train").stat().st_mtime_ns
    assert write_folder(train, (PIXELS[:3], LABELS[:3])) == (folder, side)
    assert (folder / "train").stat().st_mtime_ns == changed
    assert [path.name for path in Path("data").iterdir()] == [folder.name]


def test_without_test_images_a_fifth_is_held_out_and_odd_sizes_get_an_edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.concatenate([PIXELS[:, :, :14, :13]] * 2)
    folder, side = write_folder((images, np.arange(24) % 3))
    splits = load_data("folder", str(folder), side)
    assert side == 16
    assert (len(splits.train.labels), len(splits.test.labels)) == (20, 4)
    inner = splits.train.images[:, :, 1:15, 1:14]
    assert set(rows(inner)) <= set(rows(images))
    assert splits.train.images.sum() == inner.sum()


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ((PIXELS[:2], LABELS[:2]), "test: no image of class 2"),
        ((PIXELS[:4], np.array([0, 1, 2, 3])), "test: label 3, but data has 3 classes"),
        ((PIXELS[:3, :, :8], LABELS[:3]), "give one size"),
    ],
)
def test_test_images_must_fit(test: object, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FedShieldError, match=told):
        write_folder((PIXELS, LABELS), test)
    assert not Path("data").exists()


def test_test_images_have_their_classes_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, test = (TensorDataset(torch.from_numpy(PIXELS), torch.from_numpy(LABELS)) for _ in range(2))
    data.classes, test.classes = ["ant", "bee", "cat"], ["cat", "bee", "ant"]  # type: ignore[attr-defined]
    with pytest.raises(FedShieldError, match="test: its classes are cat, bee, ant, those of data ant, bee, cat; give"):
        write_folder(data, test)
    test.classes = data.classes  # type: ignore[attr-defined]
    write_folder(data, test)


def test_a_folder_of_before_that_lacks_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, _ = write_folder((PIXELS, LABELS), (PIXELS[:3], LABELS[:3]))
    next((folder / "train" / "1").iterdir()).unlink()
    with pytest.raises(
        FedShieldError, match=f"train: has 11 images, of the 12 that were written; remove {folder}, and"
    ):
        write_folder((PIXELS, LABELS), (PIXELS[:3], LABELS[:3]))


def test_pictures_of_any_mode_become_what_they_show() -> None:
    color = Image.fromarray(PIXELS[0].transpose(1, 2, 0))
    palette = color.quantize(16)
    shown = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    for mode in ("HSV", "RGBA", "YCbCr"):
        assert np.abs(to_pixels([color.convert(mode)])[0].astype(int) - PIXELS[0]).max() <= 12  # rounding of the mode
    assert np.array_equal(to_pixels([palette])[0], shown)
    assert np.array_equal(to_dataset([(palette, 0)] * 3, "data").images[2], shown)
    deep = Image.fromarray(PIXELS[0, 0].astype(np.uint16) * 256)
    assert np.array_equal(to_dataset([(deep, 0)] * 3, "data").images[0, 1], PIXELS[0, 0])
    light = Image.fromarray(np.full((16, 16), 0.5, np.float32))
    assert to_pixels([light]).max() == 128
    with pytest.raises(FedShieldError, match=r"data\[0\]: cannot be read .*gray integers of 32 bits from 50000"):
        to_dataset([(Image.fromarray(np.full((16, 16), 50000, np.int32)), 0)] * 3, "data")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((PIXELS > 127).astype(np.uint8), "uint8 values 0 and 1, nearly black where white is 255"),
        ((PIXELS / 255).astype(int), "int64 values 0 and 1, nearly black"),
        (TensorDataset(torch.rand(4, 3, 16, 16)), "images: TensorDataset; a dataset has its own labels, so give it"),
    ],
)
def test_images_that_are_most_likely_something_else_are_refused(given: object, told: str) -> None:
    with pytest.raises(FedShieldError, match=told):
        to_pixels(given)


def test_a_loader_is_no_dataset() -> None:
    loader = torch.utils.data.DataLoader(TensorDataset(torch.rand(4, 3, 16, 16), torch.arange(4)))
    with pytest.raises(FedShieldError, match="data: DataLoader; give its dataset; otherwise give"):
        to_dataset(loader, "data")


def test_another_process_may_have_written_the_same_images_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ((PIXELS, LABELS), (PIXELS[:3], LABELS[:3]))
    first = write_folder(*given)
    monkeypatch.setattr(Path, "exists", lambda *_, **__: False)  # as it was when this process looked
    assert write_folder(*given) == first
    assert [path.name for path in Path("data").iterdir()] == [first[0].name]
