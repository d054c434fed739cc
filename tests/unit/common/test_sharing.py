"""What is made of the slice that clients receive, and how near it brings them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.datasets import Dataset
from common.errors import FedShieldError
from common.seeding import rng_for, seed_for
from common.sharing.alignment import Distance, feature_distance, label_distance, tell_alignment
from common.sharing.averaged import averaged
from common.sharing.distilled import distilled
from common.sharing.embedding import random_embedding
from common.sharing.noised import noised
from common.sharing.other_dataset import other_dataset

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def gray(*values: int, labels: list[int] | None = None, side: int = 16) -> Dataset:
    """Images of one shade each, of the classes ``labels``, or all of the first."""
    images = np.repeat(np.array(values, np.uint8), 3 * side * side).reshape(-1, 3, side, side)
    return Dataset(images, np.array(labels or [0] * len(values), np.int64), ("cat", "dog"))


def textured(count: int, side: int = 16) -> Dataset:
    """Images that a network can tell apart by class: vertical and horizontal stripes, each with its own noise."""
    rng, labels = np.random.default_rng(0), np.arange(count) % 2
    stripes = np.tile(np.arange(side) // 2 % 2 * 160, (side, 1))
    shown = np.stack([stripes.T if label else stripes for label in labels])[:, None]
    return Dataset((shown + rng.integers(0, 90, (count, 3, side, side))).astype(np.uint8), labels, ("cat", "dog"))


def test_noise_is_on_the_scale_of_pixels_clipped_and_seeded() -> None:
    data = gray(100, 250)
    found = noised(data, 0.1, seed=1)
    normal = rng_for(1, "noised").standard_normal((2, 3, 16, 16))
    expected = np.round(np.array([100, 250]).reshape(2, 1, 1, 1) + 25.5 * normal)  # 0.1 of 255
    assert found.images.dtype == np.uint8
    assert (found.images == np.minimum(expected, 255)).all()
    assert (found.images[1] == 255).any()
    assert (found.labels == data.labels).all()
    assert (noised(data, 0.0, seed=1).images == data.images).all()
    assert found.digest() == noised(data, 0.1, seed=1).digest() != noised(data, 0.1, seed=2).digest()


def test_a_mean_is_of_one_class_and_no_image_is_in_two() -> None:
    data = gray(10, 2, 20, 8, 30, 32, 41, 128, labels=[0, 1, 0, 1, 0, 1, 0, 1])
    whole = averaged(data, 4, seed=1)
    assert whole.labels.tolist() == [0, 1]
    assert [int(image[0, 0, 0]) for image in whole.images] == [25, 42]  # 101 / 4, and 170 / 4 = 42.5 to the even one
    pairs = averaged(data, 2, seed=1)
    assert pairs.labels.tolist() == [0, 0, 1, 1]
    assert {int(image[0, 0, 0]) for image in pairs.images[2:]} in ({5, 80}, {17, 68}, {65, 20})
    left = averaged(gray(1, 3, 9, 7, 7, labels=[0, 0, 0, 1, 1]), 2, seed=1)
    assert left.labels.tolist() == [0, 1]  # one image of the first class is left over
    assert left.images[1, 0, 0, 0] == 7
    assert (averaged(data, 1, seed=1).images.sum()) == data.images.sum()


def test_a_step_of_distilling_is_that_of_the_equation() -> None:
    data = textured(8)
    start, one = (distilled(data, 2, steps, 1, CPU) for steps in (0, 1))
    assert one.labels.tolist() == [0, 0, 1, 1]
    means = np.stack([data.images[data.labels == label].mean(axis=0) / 255 for label in (0, 0, 1, 1)])
    noise = rng_for(1, "distilled").standard_normal(means.shape)
    begun = torch.tensor((means + 0.1 * noise).clip(0, 1), dtype=torch.float32, requires_grad=True)
    assert np.array_equal(start.images, (begun.detach() * 255).round().numpy())
    network = random_embedding(seed_for(1, "distilled", 1), 32)
    real = [network(torch.tensor(data.images[data.labels == label]).float() / 255).mean(0) for label in (0, 1)]
    made = [network(begun[:2]).mean(0), network(begun[2:]).mean(0)]
    sum(((a - b) ** 2).sum() for a, b in zip(real, made, strict=True)).backward()  # type: ignore[union-attr]
    assert begun.grad is not None
    expected = ((begun - 0.05 * 2 * begun.grad).clamp(0, 1) * 255).round().detach().numpy()
    assert np.abs(one.images - expected).max() <= 1  # sums in another order may round the other way


def test_distilling_brings_the_features_of_a_new_network_nearer() -> None:
    data, networks = textured(16), [random_embedding(seed, 32) for seed in (99, 100, 101)]

    def features(images: Dataset, label: int) -> torch.Tensor:
        own = torch.tensor(images.images[images.labels == label]).float() / 255
        return torch.cat([network(own).mean(0) for network in networks])

    def distance(made: Dataset) -> float:
        return sum(float((features(data, label) - features(made, label)).square().sum()) for label in (0, 1))

    first, again = (distilled(data, 3, 30, 1, CPU) for _ in range(2))
    assert first.digest() == again.digest() != distilled(data, 3, 30, 2, CPU).digest()
    assert distance(first) < 0.8 * distance(distilled(data, 3, 0, 1, CPU))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of each of three classes; a class has a shade."""
    for name, shade in (("cat", 10), ("dog", 200), ("owl", 100)):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (20, 20), (shade + number,) * 3).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_another_dataset_is_a_folder_with_the_classes_of_the_run(folder: Path) -> None:
    found = other_dataset(folder, ("dog", "cat"), 16, 1.0, seed=1)
    assert found.images.shape == (4, 3, 16, 16)
    assert list(zip(found.labels.tolist(), found.images[:, 0, 0, 0].tolist(), strict=True)) == [
        *((0, 200), (0, 201), (1, 10), (1, 11))
    ]
    half = other_dataset(folder, ("dog", "cat"), 16, 0.5, seed=1)
    assert half.labels.tolist() == [0, 1]
    with pytest.raises(FedShieldError, match=r"^sharing.root = .*: has no images of fox, emu; it needs a subfolder wi"):
        other_dataset(folder, ("dog", "fox", "emu"), 16, 1.0, seed=1)
    with pytest.raises(FedShieldError, match=r"^sharing.root: no folder .*nowhere; give an image folder"):
        other_dataset(folder / "nowhere", ("dog",), 16, 1.0, seed=1)


def test_label_distance_by_hand_and_against_all_pairs() -> None:
    counts = np.array([[4, 0], [0, 4]])
    # Nothing in common; then 6:2 against 2:6.
    assert label_distance(counts, np.array([2, 2])) == Distance(1.0, 0.5)
    assert label_distance(counts[:1], np.array([2, 2])) == Distance(0.0, 0.0)
    many = np.random.default_rng(0).integers(0, 9, (7, 5)) + np.eye(7, 5, dtype=int)
    shares = many / many.sum(axis=1, keepdims=True)
    pairs = [np.abs(a - b).sum() / 2 for a, b in itertools.combinations(shares, 2)]
    assert label_distance(many, np.zeros(5, int)).before == pytest.approx(np.mean(pairs))


def test_feature_distance_by_hand_and_it_notices_noise() -> None:
    counts, real = np.array([[4, 0], [0, 4]]), textured(16)
    everything = Dataset(real.images, real.labels, real.classes)
    found = feature_distance(counts, everything, real, CPU)
    # The class means are 1 apart, each 1/2 from their center. Before, a client is off by 1/2 in the share of each
    # class; with eight images of each class more, it has 12:8 and is off by 0.1.
    assert found.before == pytest.approx(0.5 * 0.5 * 2**0.5)
    assert found.after == pytest.approx(0.1 * 0.5 * 2**0.5)
    noise = np.random.default_rng(1).integers(0, 256, real.images.shape, np.uint8)
    swapped = Dataset(real.images, 1 - real.labels, real.classes)
    for worse in (noised(real, 0.3, 1), Dataset(noise, real.labels, real.classes), swapped):
        assert feature_distance(counts, worse, real, CPU).after > found.after + 0.01
        assert label_distance(counts, np.bincount(worse.labels)) == label_distance(counts, np.bincount(real.labels))


def test_alignment_is_told_in_words() -> None:
    told = {"labels": Distance(0.8, 0.4).as_json(), "features": Distance(0.0, 0.0).as_json()}
    expected = "label distance between clients 0.80 -> 0.40 (-50 %), feature distance to all 0.00 -> 0.00"
    assert tell_alignment(told) == expected
