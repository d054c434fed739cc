"""How near an image is to the decision boundary, counted in the steps of its attack."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Asked(nn.Module):
    """A network that notes what it answers; an attack asks it once before each step.

    Args:
        model: from pixels to logits [B,N].

    Attributes:
        answers: predicted classes [B] of each call; always the same list, as a fast attack asks a copy that shares it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.answers: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits [B,N] of pixels [B,3,H,W]."""
        logits: Tensor = self.model(pixels)
        self.answers.append(logits.detach().argmax(1))
        return logits

    def take(self) -> list[Tensor]:
        """Return what was noted, and forget it."""
        taken = self.answers.copy()
        self.answers.clear()
        return taken


def boundary_weights(answers: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the weight of each image, with a mean of 1: K + 1 − d, divided by its mean.

    The margin d, in [0, K], is how many of the K steps of the attack began with an image that was still classified
    correctly, and so were all before it.

    >>> boundary_weights([torch.tensor([1, 1, 0]), torch.tensor([1, 0, 0])], torch.tensor([1, 1, 1]))
    tensor([0.5000, 1.0000, 1.5000])

    Args:
        answers: K tensors of predicted classes [B], one before each step.
        labels: int64 [B].
    """
    right = torch.stack([answer == labels for answer in answers])
    left = len(answers) + 1.0 - right.cumprod(0).sum(0)
    return left / left.mean()
