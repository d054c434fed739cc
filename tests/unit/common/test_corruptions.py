"""Common corruptions, worked out by hand on small images."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from common.evaluation.corruptions import KINDS, SEVERITIES, corrupt

GRAY = np.full((1, 3, 100, 100), 128, np.uint8)


def one(rows: list[list[int]]) -> np.ndarray:
    """An image of one value for all colors."""
    return np.array([[rows] * 3], np.uint8)


def smooth() -> np.ndarray:
    blurred = gaussian_filter(np.random.default_rng(1).normal(size=(4, 3, 32, 32)), (0, 0, 1.5, 1.5))
    return (120 + 250 * blurred).clip(0, 255).astype(np.uint8)


def test_brightness_adds_to_the_value_of_hsv() -> None:
    image = np.array([100, 50, 0, 0, 0, 0, 255, 255, 255], np.uint8).reshape(1, 3, 3, 1).transpose(0, 2, 1, 3)
    # 100/255 + 0.3 = 176.5/255: the color grows by 1.765. Black becomes 0.3 * 255 = 76.5, white stays.
    wanted = [[176, 88, 0], [76, 76, 76], [255, 255, 255]]
    assert corrupt(image, "brightness", 5, seed=1)[0, :, :, 0].T.tolist() == wanted


def test_contrast_pulls_towards_the_mean_of_a_color() -> None:
    # Severity 3 keeps 0.4 of the distance from the mean, 100.5: 60.3 and 140.7.
    assert corrupt(one([[0, 201]]), "contrast", 3, seed=1)[0].tolist() == [[[60, 140]]] * 3


@pytest.mark.parametrize(
    ("severity", "middle", "beside", "corner"),
    [
        (3, 113, 28, 7),  # one pixel; 1 : 0.2494 by a Gaussian of 0.6, so 0.6672² , 0.6672 · 0.1664, 0.1664² of 255
        (4, 50, 50, 0),  # the five pixels within a radius of 1, a fifth each, almost sharp
    ],
)
def test_defocus_blur_spreads_a_point(severity: int, middle: int, beside: int, corner: int) -> None:
    point = np.zeros((1, 3, 9, 9), np.uint8)
    point[..., 4, 4] = 255 if severity == 3 else 253
    wanted = np.zeros((9, 9), int)
    wanted[3:6, 3:6] = [[corner, beside, corner], [beside, middle, beside], [corner, beside, corner]]
    assert (corrupt(point, "defocus-blur", severity, seed=1) == wanted).all()


def test_zoom_blur_averages_enlargements() -> None:
    # Of the 26 factors 1.00 to 1.25, the 13 from 1.13 on make five columns of four, 0 30 60 90 120, of which the first
    # four are kept; the others leave the image as it is, which is counted once more: (14 v + 13 z) / 27.
    ramp = one([[0, 40, 80, 120]] * 4)
    assert corrupt(ramp, "zoom-blur", 5, seed=1)[0, 0].tolist() == [[0, 35, 70, 105]] * 4


def test_pixelate_averages_blocks() -> None:
    # 0.65 of four pixels are two.
    image = one([[10, 20, 0, 0], [30, 40, 0, 0], [200, 200, 0, 4], [200, 200, 8, 12]])
    wanted = [[25, 25, 0, 0], [25, 25, 0, 0], [200, 200, 6, 6], [200, 200, 6, 6]]
    assert corrupt(image, "pixelate", 5, seed=1)[0, 0].tolist() == wanted


def test_jpeg_leaves_an_even_image() -> None:
    assert np.array_equal(corrupt(GRAY, "jpeg", 5, seed=1), GRAY)


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [("gaussian-noise", 0.1 * 255), ("shot-noise", (128 / 255 / 50) ** 0.5 * 255)],
)
def test_noise_has_its_size(kind: str, deviation: float) -> None:
    added = corrupt(GRAY, kind, 5, seed=1).astype(float) - 128
    assert added.std() == pytest.approx(deviation, rel=0.02)
    assert added.mean() == pytest.approx(-0.5, abs=0.5)  # rounded down


def test_impulse_noise_is_black_or_white() -> None:
    found = corrupt(GRAY, "impulse-noise", 5, seed=1)
    hit = found != 128
    assert set(found[hit].tolist()) == {0, 255}
    assert hit.mean() == pytest.approx(0.07, abs=0.006)
    assert (found[hit] == 255).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_severer_corruption_changes_more(kind: str) -> None:
    images = smooth()
    before = images.copy()
    changes = [np.abs(corrupt(images, kind, severity, 1) - images.astype(float)).mean() for severity in SEVERITIES]
    assert changes == sorted(changes)
    assert changes[0] > 0
    assert np.array_equal(images, before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind: str) -> None:
    images = smooth()
    first = corrupt(images, kind, 2, seed=1)
    assert first.dtype == np.uint8
    assert first.shape == images.shape
    assert np.array_equal(first, corrupt(images, kind, 2, seed=1))
    others = corrupt(images, kind, 2, seed=2), corrupt(images, kind, 2, seed=1, first=100)
    assert all(np.array_equal(first, other) != kind.endswith("-noise") for other in others)
