"""Random networks as embeddings: nobody has trained them, and they still tell images apart."""

import torch
from torch import nn

from common.models.networks import Normalize
from common.seeding import seed_for

_STAGES = 3


def random_embedding(seed: int, width: int) -> nn.Sequential:
    """Return a freshly drawn convolutional network without its classifier, on the CPU.

    It is the network of dataset condensation (Zhao and Bilen 2021, arXiv 2110.04181): three times a 3×3 convolution,
    instance normalization, ReLU and 2×2 mean pooling. From images [B,3,H,W] in [0, 1] it makes features
    [B, width × H/8 × W/8]; H and W are multiples of 8.

    Args:
        seed: of the weights, PyTorch's initial ones.
        width: channels of each convolution.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "embedding"))
        layers: list[nn.Module] = [Normalize()]
        for stage in range(_STAGES):
            norm = nn.GroupNorm(width, width)  # a group for each channel: instance normalization
            layers += [nn.Conv2d(width if stage else 3, width, 3, padding=1), norm, nn.ReLU(), nn.AvgPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten()).requires_grad_(False)
