"""A few images a class that are made so that networks see them as they see all images of the class."""

import logging
import time

import numpy as np
import torch
from torch import Tensor

from common.data.datasets import Dataset
from common.seeding import rng_for, seed_for
from common.sharing.embedding import random_embedding
from common.training.trainer import pixels

log = logging.getLogger("fedshield")

_WIDTH = 32  # channels of the random networks; 128 in the paper, for GPUs
BATCH = 64  # real images of a class in a step, at most
_RATE, _MOMENTUM = 0.05, 0.5  # of SGD on pixels in [0, 1]; the rate for one image of a class, which has more gradient
_STARTING_NOISE = 0.1  # standard deviation, on the same scale
_LINES = 4  # about the progress


def distilled(data: Dataset, per_class: int, steps: int, seed: int, device: torch.device) -> Dataset:
    """Make images by distribution matching (Zhao and Bilen 2021, arXiv 2110.04181, algorithm 1).

    In each step a new random network embeds a batch of the images and the made ones of each class. The made ones move
    so that the sum over classes of the squared distance between the two mean embeddings falls. Differences to the
    paper: no augmentation, narrower networks, and the images do not start as real ones, which would still be seen in
    them, but as the mean of their class with noise.

    A step costs a forward pass of a batch of 64 images a class and a forward and backward pass of the made ones, of a
    network with 8 MFLOPs for 32×32 pixels. On one CPU the same arguments give the same bits.

    Args:
        data: images uint8 [N,3,H,W], some of each class.
        per_class: images to make of each class, 1 or more.
        steps: 0 or more.
        seed: of the run.
        device: to compute on.

    Returns:
        ``per_class`` images of each class, one class after the other.
    """
    rows = [np.flatnonzero(data.labels == label) for label in range(len(data.classes))]
    labels = np.repeat(np.arange(len(rows)), per_class)
    made = _start(data, rows, per_class, seed).to(device).requires_grad_()
    velocity, started = torch.zeros_like(made), time.perf_counter()
    for step in range(1, steps + 1):
        network = random_embedding(seed_for(seed, "distilled", step), _WIDTH).to(device)
        rng, loss = rng_for(seed, "distilled-batch", step), torch.zeros((), device=device)
        ours = network(made).view(len(rows), per_class, -1).mean(1)
        for label, own in enumerate(rows):
            batch = np.sort(rng.permutation(own)[:BATCH])
            loss = loss + (network(pixels(data.images[batch], device)).mean(0) - ours[label]).square().sum()
        (gradient,) = torch.autograd.grad(loss, [made])
        with torch.no_grad():
            velocity.mul_(_MOMENTUM).add_(gradient)
            made.sub_(_RATE * per_class * velocity).clamp_(0, 1)
        if step * _LINES // steps > (step - 1) * _LINES // steps:
            seconds = time.perf_counter() - started
            log.info("distilling: step %d/%d, distance %.2f, %.1f s", step, steps, float(loss.detach()), seconds)
    images = made.detach().mul(255).round().to(torch.uint8).cpu().numpy()
    return Dataset(images, labels, data.classes)


def _start(data: Dataset, rows: list[np.ndarray], per_class: int, seed: int) -> Tensor:
    """Return the mean image of each class, ``per_class`` times, with noise; float32 in [0, 1]."""
    means = np.stack([data.images[own].mean(axis=0) / 255 for own in rows])
    noise = rng_for(seed, "distilled").standard_normal((len(rows) * per_class, *means.shape[1:]))
    start = np.repeat(means, per_class, axis=0) + _STARTING_NOISE * noise
    return torch.from_numpy(start.clip(0, 1).astype(np.float32))
