"""Means of images of one class."""

import numpy as np

from common.data.datasets import Dataset
from common.seeding import rng_for


def averaged(data: Dataset, count: int, seed: int) -> Dataset:
    """Replace every ``count`` images of a class by their mean, pixel by pixel; what is left over is not used.

    The means are those of Mean Augmented Federated Learning (Yoon et al. 2021, arXiv 2107.00233), with two
    differences: there an average is of any images, so that its label is the mean of their labels; here it is of one
    class, so that the label stays hard. And there (FedMix) a client mixes its images with the averages by a Taylor
    expansion of the loss; here it trains on them as on other images.

    No image is in two means: from overlapping ones, single images could be computed.

    Args:
        data: images uint8 [N,3,H,W], ``count`` or more of each class.
        count: images in a mean, 1 or more.
        seed: of the run; decides which images of a class are together.

    Returns:
        n // ``count`` images of a class of n, one class after the other; uint8, rounded to the nearest value.
    """
    means, labels = [], []
    for label in range(len(data.classes)):
        rows = rng_for(seed, "averaged", label).permutation(np.flatnonzero(data.labels == label))
        for group in rows[: len(rows) // count * count].reshape(-1, count):
            means.append(np.rint(data.images[group].mean(axis=0)).astype(np.uint8))
            labels.append(label)
    return Dataset(np.stack(means), np.array(labels, dtype=np.int64), data.classes)
