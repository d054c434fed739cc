"""Random crops and flips, all of whose random numbers are drawn before an epoch."""

import torch
from torch import Tensor, nn

_PADDING = 4


def draw_crops(count: int, generator: torch.Generator, flip: bool = True) -> Tensor:
    """Draw where ``augment`` crops and which images it flips.

    Args:
        count: number of images.
        generator: to draw from; it draws the same numbers with flips and without.
        flip: whether any image is flipped.

    Returns:
        int64 [count,3]: top and left in [0, 8], and 1 (with probability 1/2) for a flip.
    """
    top, left = torch.randint(0, 2 * _PADDING + 1, (2, count), generator=generator)
    flipped = (torch.rand(count, generator=generator) < 0.5) & flip
    return torch.stack([top, left, flipped.long()], dim=1)


def augment(images: Tensor, crops: Tensor) -> Tensor:
    """Crop each image at its own place after zero-padding by 4, and flip it left to right or not.

    Args:
        images: uint8 or float [B,3,H,W].
        crops: [B,3] of ``draw_crops``, on the same device.

    Returns:
        Images of the same shape and type.
    """
    batch, _, height, width = images.shape
    top, left, flip = crops.unbind(1)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    columns = left[:, None] + torch.where(flip[:, None] > 0, width - 1 - columns, columns)
    padded = nn.functional.pad(images, [_PADDING] * 4)
    index = torch.arange(batch, device=images.device)[:, None, None]
    # Advanced indices around a slice come first in the result: [B,H,W,C].
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
