"""Common corruptions of images, which no adversary has chosen: noise, blur, light, coarse pixels, compression.

After Hendrycks and Dietterich 2019 (arXiv 1903.12261). The formulas and the five severities are those of the script
that made CIFAR-10-C (``make_cifar_c.py`` in github.com/hendrycks/robustness), for nine of its fifteen kinds: those that
can be computed exactly with NumPy, SciPy, PyTorch and Pillow. The random numbers are others. The script is for 32×32
pixels; a defocus of so many pixels is a weaker one on larger images.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.seeding import rng_for

SEVERITIES = (1, 2, 3, 4, 5)

Images = NDArray[np.uint8]
Floats = NDArray[np.float64]


def corrupt(images: Images, kind: str, severity: int, seed: int, first: int = 0) -> Images:
    """Corrupt images; like the script of CIFAR-10-C, this rounds down to whole values of a pixel.

    >>> black = np.zeros((1, 3, 2, 2), np.uint8)
    >>> int(corrupt(black, "brightness", 5, seed=1).max()), 0.3 * 255
    (76, 76.5)

    Args:
        images: uint8 [N,3,H,W].
        kind: one of ``KINDS``.
        severity: 1 (weak) to 5 (strong).
        seed: of the noise, >= 0.
        first: number of the first image among all; other images get other noise.
    """
    change, constants = KINDS[kind]
    given = images.astype(np.float64) / 255
    changed = change(given, constants[severity - 1], rng_for(seed, "corruption", kind, severity, first))
    return (changed.clip(0, 1) * 255).astype(np.uint8)


def _gaussian_noise(images: Floats, deviation: float, rng: np.random.Generator) -> Floats:
    return images + rng.normal(scale=deviation, size=images.shape)


def _shot_noise(images: Floats, photons: float, rng: np.random.Generator) -> Floats:
    return rng.poisson(images * photons) / photons


def _impulse_noise(images: Floats, share: float, rng: np.random.Generator) -> Floats:
    """Make this share of all values black or white, each color apart."""
    hit, white = rng.random(images.shape) < share, rng.random(images.shape) < 0.5
    return np.where(hit, white, images)


def _defocus_blur(images: Floats, lens: tuple[float, float], rng: np.random.Generator) -> Floats:
    """Average over a disk whose edge is softened.

    Args:
        images: float [N,3,H,W].
        lens: radius of the disk and standard deviation of a Gaussian over 3×3 pixels.
        rng: not used.
    """
    from scipy.ndimage import convolve

    radius, deviation = lens
    across = np.arange(-math.ceil(radius) - 1, math.ceil(radius) + 2)
    disk = (across[:, None] ** 2 + across**2 <= radius**2).astype(np.float64)
    near = np.exp(-(np.arange(-1, 2) ** 2) / (2 * deviation**2))
    soft = convolve(disk, np.outer(near, near), mode="constant")
    blurred: Floats = convolve(images, (soft / soft.sum())[None, None], mode="mirror")
    return blurred


def _zoom_blur(images: Floats, end: float, rng: np.random.Generator) -> Floats:
    """Average the image and its enlargements by 0 %, 1 %, 2 % and so on, up to the last one below ``end``."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    given = torch.from_numpy(images)
    factors, sides = np.arange(1, end, 0.01), given.shape[2:]
    total = given.clone()
    for factor in factors:
        inner = _middle(given, [math.ceil(side / factor) for side in sides])
        sizes = [round(side * factor) for side in inner.shape[2:]]
        total += _middle(F.interpolate(inner, sizes, mode="bilinear", align_corners=True), sides)
    averaged: Floats = (total / (len(factors) + 1)).numpy()
    return averaged


def _middle(images: Any, sides: Sequence[int]) -> Any:
    """Return the middle of images [N,3,H,W], of this height and width."""
    top, left = ((own - side) // 2 for own, side in zip(images.shape[2:], sides, strict=True))
    return images[:, :, top : top + sides[0], left : left + sides[1]]


def _brightness(images: Floats, added: float, rng: np.random.Generator) -> Floats:
    """Add to the value of hue, saturation and value; hue and saturation stay."""
    value = images.max(1, keepdims=True)
    brighter = (value + added).clip(max=1)
    scaled: Floats = np.where(value > 0, images * (brighter / np.where(value > 0, value, 1)), brighter)
    return scaled


def _contrast(images: Floats, share: float, rng: np.random.Generator) -> Floats:
    means = images.mean((2, 3), keepdims=True)
    less: Floats = (images - means) * share + means
    return less


def _pixelate(images: Floats, share: float, rng: np.random.Generator) -> Floats:
    from PIL import Image

    def coarse(image: Any) -> Any:
        size = [max(1, int(side * share)) for side in image.size]
        return image.resize(size, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _one_by_one(images, coarse)


def _jpeg(images: Floats, quality: int, rng: np.random.Generator) -> Floats:
    from PIL import Image

    def coded(image: Any) -> Any:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _one_by_one(images, coded)


def _one_by_one(images: Floats, change: Callable[[Any], Any]) -> Floats:
    from PIL import Image

    pictures = (images * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    changed = np.stack([np.asarray(change(Image.fromarray(picture))) for picture in pictures])
    return (changed.transpose(0, 3, 1, 2) + 0.5) / 255  # half a value more: it is rounded down later


# What each kind does, and the constant of each severity as in the script of CIFAR-10-C.
KINDS: dict[str, tuple[Callable[[Floats, Any, np.random.Generator], Floats], tuple[Any, ...]]] = {
    "gaussian-noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot-noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse-noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus-blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "zoom-blur": (_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
}
