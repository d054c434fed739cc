"""How far what is shared brings the clients together: in the classes they train on, and in features."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from common.data.datasets import Dataset
from common.sharing.embedding import random_embedding
from common.training.trainer import pixels

_SEED, _WIDTH = 0, 32  # of the one network of all runs, so that their distances can be compared
_SIDE = 32  # larger images are made smaller first
_BATCH = 500
_NAMES = {"labels": "label distance between clients", "features": "feature distance to all"}


@dataclass(frozen=True)
class Distance:
    """How far apart something is without what is shared, and with it; 0 or more."""

    before: float
    after: float

    def as_json(self) -> dict[str, float]:
        """Return it for ``partition.json``, rounded."""
        return {"before": round(self.before, 4), "after": round(self.after, 4)}


def tell_alignment(alignment: Mapping[str, Mapping[str, float]]) -> str:
    """Say how much nearer the clients are by what is shared.

    Args:
        alignment: as in ``partition.json``.
    """
    return ", ".join(f"{_NAMES[name]} {_change(**each)}" for name, each in alignment.items() if name in _NAMES)


def _change(before: float, after: float) -> str:
    return f"{before:.2f} -> {after:.2f}" + (f" ({100 * (after - before) / before:+.0f} %)" if before else "")


def label_distance(counts: NDArray[np.int64], shared: NDArray[np.int64]) -> Distance:
    """Return the mean total variation between the label distributions of two clients, over all pairs; in [0, 1].

    1 is that no two clients have a class in common, 0 that all have the same distribution. It looks at the classes
    alone: noise with a label counts as much as an image.

    Args:
        counts: own training images of each class at each client, [clients, classes]; no client without images.
        shared: images of each class that every client receives, [classes].
    """
    return Distance(_mean_variation(counts), _mean_variation(counts + shared))


def _mean_variation(counts: NDArray[np.int64]) -> float:
    """Sum, class by class, over all pairs of the sorted shares: n log n instead of n² for n clients."""
    clients = len(counts)
    if clients < 2:
        return 0.0
    shares = np.sort(counts / counts.sum(axis=1, keepdims=True), axis=0)
    signs = (
        2 * np.arange(clients) - clients + 1
    )  # how often a share is the larger of a pair, less how often the smaller
    return float((signs @ shares).sum() / 2 / (clients * (clients - 1) / 2))


def feature_distance(counts: NDArray[np.int64], shared: Dataset, real: Dataset, device: torch.device) -> Distance:
    """Return how far what a client trains on is from what all clients have together, in features; the mean of clients.

    The distance is the maximum mean discrepancy (Gretton et al. 2012, JMLR 13, equation 2) of images with labels, for
    the kernel k(x, x') [y = y']. k is the inner product of features of one fixed random network, from which the mean
    of the class means is subtracted, and which are scaled so that two classes are 1 apart (root mean square over the
    pairs). The server does not see the clients' images: they are taken to look as ``real`` does on average, class by
    class. So images that look less like their class than ``real`` bring less than their labels promise, or nothing.

    Args:
        counts: as in ``label_distance``.
        shared: what every client receives.
        real: the server's own images, one or more; a class without any counts for nothing.
        device: to compute on.
    """
    classes = len(real.classes)
    there = np.bincount(real.labels, minlength=classes)[:, None]
    means, sent = _sums(real, device) / np.maximum(there, 1), _sums(shared, device)
    center = means[there[:, 0] > 0].mean(axis=0)
    means = np.where(there > 0, means - center, 0)
    sent = np.where(there > 0, sent - np.bincount(shared.labels, minlength=classes)[:, None] * center, 0)
    scale = float(np.sqrt(2 * np.square(means).sum() / max(1, (there > 0).sum() - 1))) or 1.0
    everybody = counts.sum(axis=0) / counts.sum()

    def mean_distance(sent: NDArray[np.float64], images: int) -> float:
        """Return it where every client has also so many images, with these sums of features in each class."""
        weights = 1 / (counts.sum(axis=1) + images)
        gaps = counts * weights[:, None] - everybody
        squares = np.square(gaps) @ np.square(means).sum(axis=1) + 2 * weights * (gaps @ (means * sent).sum(axis=1))
        squares += np.square(weights) * np.square(sent).sum()
        return float(np.sqrt(squares.clip(0)).mean()) / scale

    return Distance(mean_distance(np.zeros_like(sent), 0), mean_distance(sent, len(shared.labels)))


def _sums(data: Dataset, device: torch.device) -> NDArray[np.float64]:
    """Return the sum of the features over the images of each class, [classes, features]."""
    network = random_embedding(_SEED, _WIDTH).to(device)
    parts = []
    for start in range(0, len(data.labels), _BATCH):
        images = pixels(data.images[start : start + _BATCH], device)
        images = adaptive_avg_pool2d(images, _SIDE) if images.shape[-1] > _SIDE else images
        of_class = np.eye(len(data.classes))[data.labels[start : start + _BATCH]]
        parts.append(of_class.T @ network(images).double().cpu().numpy())
    total: NDArray[np.float64] = np.sum(parts, axis=0)
    return total
