"""Local training: the one ``fit`` of clients and of centralised training."""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.losses import Loss
from common.seeding import seed_for

_PADDING = 4


@dataclass(frozen=True)
class Schedule:
    """How ``fit`` walks through the data.

    Attributes:
        epochs: passes over the data, >= 1.
        batch_size: images a step; the last batch of an epoch may be smaller.
        learning_rate: of SGD, > 0, constant within one call.
        momentum: of SGD, in [0, 1); its buffers start empty at each call.
        weight_decay: L2 penalty of SGD, >= 0.
        augment: random crop with padding 4, and horizontal flip.
        precision: ``bfloat16`` runs the forward passes under autocast; weights stay float32.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    augment: bool
    precision: Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class FitResult:
    """What one call of ``fit`` did; the trained weights are in the model.

    Attributes:
        examples: number of training images (not of steps): the client's weight in FedAvg.
        loss: mean training loss over the images of the last epoch.
        seconds: wall time.
    """

    examples: int
    loss: float
    seconds: float


def pixels(images: NDArray[np.uint8] | Tensor, device: torch.device) -> Tensor:
    """Move uint8 images [B,3,H,W] to ``device`` and scale them to [0, 1] in float32."""
    return torch.as_tensor(images, device=device).float() / 255


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop each image at a random place after zero-padding by 4, and flip it left to right with probability 1/2.

    Args:
        images: uint8 or float [B,3,H,W].
        generator: of the CPU; every image draws its own place and flip.

    Returns:
        Images of the same shape and type.
    """
    batch, _, height, width = images.shape
    top, left = torch.randint(0, 2 * _PADDING + 1, (2, batch), generator=generator)
    flip = torch.rand(batch, generator=generator) < 0.5
    rows = top[:, None] + torch.arange(height)
    columns = torch.arange(width).expand(batch, width)
    columns = left[:, None] + torch.where(flip[:, None], width - 1 - columns, columns)
    padded = nn.functional.pad(images, [_PADDING] * 4)
    index = torch.arange(batch)[:, None, None]
    rows, columns = rows.to(images.device), columns.to(images.device)
    # Advanced indices around a slice come first in the result: [B,H,W,C].
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def fit(
    model: nn.Module, loss: Loss, images: NDArray[np.uint8], labels: NDArray[np.int64], schedule: Schedule, seed: int
) -> FitResult:
    """Train ``model`` in place with SGD.

    Args:
        model: on the device on which to train; left in training mode.
        loss: a training method of ``common.losses`` built on this very model.
        images: uint8 [N,3,H,W].
        labels: int64 [N].
        schedule: epochs, batches, rates.
        seed: fixes the order of the images, augmentation, noise and random starts.
    """
    started = time.perf_counter()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed_for(seed, "order"))
    torch.manual_seed(seed_for(seed, "noise"))  # what torchattacks and the noise draw from
    optimizer = torch.optim.SGD(
        model.parameters(), schedule.learning_rate, schedule.momentum, weight_decay=schedule.weight_decay
    )
    data, targets = torch.from_numpy(images), torch.from_numpy(labels)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=schedule.precision == "bfloat16")
    model.train()
    for _ in range(schedule.epochs):
        total = torch.zeros((), device=device)
        for batch in torch.split(torch.randperm(len(data), generator=generator), schedule.batch_size):
            chosen = augment(data[batch], generator) if schedule.augment else data[batch]
            with autocast:
                value = loss(pixels(chosen, device), targets[batch].to(device))
            optimizer.zero_grad()
            torch.autograd.backward(value)
            optimizer.step()
            total += value.detach() * len(batch)
    return FitResult(len(data), float(total) / len(data), time.perf_counter() - started)
