"""What an attack sees of a randomized network: the mean of its logits over several forward passes."""

from typing import Any

import torch
from torch import Tensor, nn


class Averaged(nn.Module):
    """The mean of a network's logits over forward passes, whose gradient is the mean of the passes' gradients.

    Expectation over transformation (Athalye et al. 2018, arXiv 1802.00420, section 4.2): one pass tells an attack what
    the network answers by chance, the mean what it usually answers.

    Args:
        model: from pixels [B,3,H,W] to logits [B,N].
        passes: 1 or more.
    """

    def __init__(self, model: nn.Module, passes: int) -> None:
        super().__init__()
        self._model = model
        self._passes = passes

    def forward(self, images: Tensor) -> Tensor:
        """Return mean logits [B,N]."""
        logits: Tensor = _Mean.apply(images, self._model, self._passes)
        return logits


class _Mean(torch.autograd.Function):
    """Draws anew for the gradient, so that the memory of one pass is enough, whatever the network draws from."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, model: nn.Module, passes: int) -> Tensor:
        ctx.save_for_backward(images)
        ctx.of = model, passes
        return torch.stack([model(images) for _ in range(passes)]).mean(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (images,), (model, passes) = ctx.saved_tensors, ctx.of
        inputs, found = images.detach().requires_grad_(), torch.zeros_like(images)
        for _ in range(passes):
            with torch.enable_grad():
                logits = model(inputs)
            found += torch.autograd.grad(logits, inputs, gradients[0] / passes)[0]
        return found, None, None
