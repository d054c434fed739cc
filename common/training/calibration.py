"""What is added to the logits, by the classes that a client has: CalFAT's log of their prior, FedLC's margins."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_NEARLY_NONE = 1e-8  # images of a class that a client lacks, for its margin, as in the code for FedLC
_IN_LOG = 1e-7  # added to every count, as in the code of CalFAT's authors, so that a count of 0 has a logarithm


@dataclass(frozen=True)
class Calibration:
    """How CalFAT calibrates: ``EQUATIONS`` are those of its paper, ``AUTHORS_CODE`` is what its authors ran.

    Attributes:
        absent: count of a class that the client lacks, >= 0.
        scale: factor of the logits in the loss, > 0; the attack ``kl`` divides the log of the prior by it instead.
        attack: ``kl``, or ``pgd`` on the loss itself.
    """

    absent: float = 1.0
    scale: float = 1.0
    attack: str = "kl"


EQUATIONS = Calibration()
AUTHORS_CODE = Calibration(scale=10.0)


class Calibrated(nn.Module):
    """A model with the log of a class prior added to its logits.

    Args:
        model: from pixels to logits [B,N].
        prior: log of the prior, [N], on the model's device.
        scale: factor of the logits, > 0.
        strength: factor of the prior's log, > 0.
    """

    prior: Tensor

    def __init__(self, model: nn.Module, prior: Tensor, scale: float = 1.0, strength: float = 1.0) -> None:
        super().__init__()
        self.model, self.scale, self.strength = model, scale, strength
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the calibrated logits [B,N] of pixels [B,3,H,W]."""
        logits: Tensor = self.scale * self.model(pixels) + self.strength * self.prior
        return logits


def label_margins(class_counts: tuple[int, ...], tau: float) -> Tensor:
    """Return −τ n^(−1/4) of each class, float32 [N].

    Args:
        class_counts: images n of each of the N classes, each >= 0.
        tau: τ, >= 0.
    """
    counts = torch.tensor([count or _NEARLY_NONE for count in class_counts], dtype=torch.float64)
    return (-tau * counts**-0.25).float()


def log_prior(class_counts: tuple[int, ...], absent: float) -> Tensor:
    """Return the log of the class prior, float32 [N].

    Args:
        class_counts: images of each of the N classes, each >= 0.
        absent: count instead of 0, >= 0.
    """
    counts = torch.tensor([count or absent for count in class_counts], dtype=torch.float64) + _IN_LOG
    return (counts / counts.sum()).log().float()
