"""Images with Gaussian noise."""

import numpy as np
from numpy.typing import NDArray

from common.data.datasets import Dataset
from common.seeding import rng_for


def noised(data: Dataset, sigma: float, seed: int) -> Dataset:
    """Add noise from N(0, sigma²) to every pixel, clip to [0, 1] and round to 8 bits again; labels stay.

    Each image is noised once, for all rounds and clients, so that nobody can average the noise away. The sum of noise
    and clipping is no guarantee of differential privacy: sigma is not calibrated to anything.

    Args:
        data: images uint8 [N,3,H,W].
        sigma: standard deviation on the [0, 1] scale of pixels, 0 or more.
        seed: of the run.
    """
    rng, images = rng_for(seed, "noised"), np.empty_like(data.images)
    for row, image in enumerate(data.images):  # one at a time: as floats, all of them would take much memory
        images[row] = _to_bytes(image / 255 + sigma * rng.standard_normal(image.shape))
    return Dataset(images, data.labels, data.classes)


def _to_bytes(pixels: NDArray[np.float64]) -> NDArray[np.uint8]:
    scaled: NDArray[np.uint8] = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    return scaled
