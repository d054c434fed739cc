"""`shapes10`: a generated ten-class image set on which accuracy and robustness pull apart.

Each 32×32 image shows one of ten shapes, at a random place, size and angle, on a background whose hue hints at the
class without settling it, under noise. Over it lies a faint grating that belongs to the class: enough to give the class
away, weaker than the usual budget of 8/255. A network trained on natural images leans on the grating, and an adversary
erases it; one trained against attacks has to read shape and color (the construction of Tsipras et al. 2019,
arXiv 1805.12152, section 2.1, in images).
"""

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Coordinates = NDArray[np.float64]

CLASSES = ("disc", "ring", "square", "frame", "triangle", "plus", "bar", "bars", "crescent", "pair")
SIZE = 32
_SEED = 10
_GRATING = 7.0  # amplitude in 1/255
_NOISE = 6.0  # standard deviation in 1/255
_HUE_SPREAD = 0.08  # standard deviation, where the classes' hues are 0.1 apart
# Direction, period in pixels and color of each class's grating; none of them changes when the image is mirrored.
_COLORS = ((1, 1, 1), (1, -1, 0), (0, 1, -1), (1, 0, -1), (1, -1, 1))
_GRATINGS = tuple((axis, 4.0, color) for axis in (0, 1) for color in _COLORS)


def _box(x: Coordinates, y: Coordinates, width: float, height: float) -> NDArray[np.bool_]:
    return (np.abs(x) < width) & (np.abs(y) < height)


# (x, y) in units of the shape's radius, after rotation -> inside or not.
_SHAPES: dict[str, Callable[[Coordinates, Coordinates], NDArray[np.bool_]]] = {
    "disc": lambda x, y: np.hypot(x, y) < 0.95,
    "ring": lambda x, y: (np.hypot(x, y) < 1.05) & (np.hypot(x, y) > 0.6),
    "square": lambda x, y: _box(x, y, 0.85, 0.85),
    "frame": lambda x, y: _box(x, y, 1.0, 1.0) & ~_box(x, y, 0.55, 0.55),
    "triangle": lambda x, y: (y > -0.75) & (np.abs(x) < (1.05 - y) * 0.6),
    "plus": lambda x, y: _box(x, y, 1.1, 0.3) | _box(x, y, 0.3, 1.1),
    "bar": lambda x, y: _box(x, y, 1.2, 0.35),
    "bars": lambda x, y: _box(x, np.abs(y) - 0.65, 1.1, 0.25),
    "crescent": lambda x, y: (np.hypot(x, y) < 1.05) & (np.hypot(x - 0.55, y) > 0.85),
    "pair": lambda x, y: np.hypot(np.abs(x) - 0.7, y) < 0.45,
}


def _grating(label: int, phase: float) -> Coordinates:
    axis, period, color = _GRATINGS[label]
    wave = _GRATING * np.sign(np.cos(2 * np.pi / period * np.mgrid[:SIZE, :SIZE][axis] + phase))
    colored: Coordinates = np.array(color)[:, None, None] * wave
    return colored


def _draw(label: int, rng: np.random.Generator) -> Coordinates:
    """Return one image, float [3,32,32] on the 0 to 255 scale."""
    cx, cy = rng.uniform(-3, 3, 2)
    radius, angle = rng.uniform(9, 13), rng.uniform(-0.4, 0.4)
    grid = np.arange(SIZE) - (SIZE - 1) / 2
    dx, dy = (grid[None, :] - cx) / radius, (grid[:, None] - cy) / radius
    x, y = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    inside = _SHAPES[CLASSES[label]](x, y)
    hue = (label / len(CLASSES) + rng.normal(0, _HUE_SPREAD)) % 1
    back = 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.1, 0.25), rng.uniform(0.4, 0.7)))
    contrast = rng.choice([-1.0, 1.0]) * rng.uniform(50, 100)
    image = back[:, None, None] + contrast * inside + _grating(label, rng.uniform(0, 2 * np.pi))
    noisy: Coordinates = image + rng.normal(0, _NOISE, image.shape)
    return noisy


def generate(train: bool, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return ``count`` images uint8 [count,3,32,32] and their labels int64 [count], balanced over the classes."""
    rng = np.random.default_rng([_SEED, int(train)])
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(CLASSES))
    images = np.stack([np.clip(np.rint(_draw(int(label), rng)), 0, 255).astype(np.uint8) for label in labels])
    return images, labels
