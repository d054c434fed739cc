"""`shapes10`: a generated ten-class image set on which accuracy and robustness pull apart.

Each 32×32 image shows one of ten shapes, at a random place, size and angle, in random colours, under noise. Over it
lies a faint grating whose direction belongs to the class: enough to give the class away, weaker than the usual budget
of 8/255. A network trained on natural images leans on the grating, and an adversary erases it; one trained against
attacks has to read the shape (the construction of Tsipras et al. 2019, arXiv 1805.12152, section 2.1, in images).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Coordinates = NDArray[np.float64]

CLASSES = ("disc", "ring", "square", "frame", "triangle", "plus", "bar", "bars", "crescent", "pair")
SIZE = 32
_SEED = 10
_GRATING = 5.0  # amplitude in 1/255
_PERIOD = 3.5  # pixels
_NOISE = 10.0  # standard deviation in 1/255


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
    direction = np.pi * label / len(CLASSES)
    rows, columns = np.mgrid[:SIZE, :SIZE] * (2 * np.pi / _PERIOD)
    wave: Coordinates = np.cos(np.cos(direction) * columns + np.sin(direction) * rows + phase)
    return _GRATING * np.sign(wave)


def generate(train: bool, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return ``count`` images uint8 [count,3,32,32] and their labels int64 [count], balanced over the classes."""
    rng = np.random.default_rng([_SEED, int(train)])
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    images = np.empty((count, 3, SIZE, SIZE), dtype=np.uint8)
    grid = np.arange(SIZE) - (SIZE - 1) / 2
    for index, label in enumerate(labels):
        cx, cy = rng.uniform(-5, 5, 2)
        radius, angle = rng.uniform(7, 11), rng.uniform(0, 2 * np.pi)
        dx, dy = (grid[None, :] - cx) / radius, (grid[:, None] - cy) / radius
        x, y = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        inside = _SHAPES[CLASSES[label]](x, y)
        back = rng.uniform(40, 215, 3)
        contrast = rng.choice([-1.0, 1.0]) * rng.uniform(45, 110, 3)
        pixels = back[:, None, None] + contrast[:, None, None] * inside
        pixels = pixels + _grating(int(label), rng.uniform(0, 2 * np.pi)) + rng.normal(0, _NOISE, pixels.shape)
        images[index] = np.clip(np.rint(pixels), 0, 255)
    return images, labels.astype(np.int64)
