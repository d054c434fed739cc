"""Training methods. A loss owns its inner maximisation: it attacks the model, then returns the batch's loss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from common.attacks import Threat, build_attack

Loss = Callable[[Tensor, Tensor], Tensor]
"""(images [B,3,H,W] in [0, 1], labels [B]) -> scalar loss, with a graph to the model's weights."""


@dataclass(frozen=True)
class LossContext:
    """What a training method may need besides the batch.

    Attributes:
        attack: the training attack, a key of ``ATTACKS``.
        threat: its budget and steps.
        label_smoothing: alpha of the soft labels, in [0, 1).
        noise_std: standard deviation of the Gaussian noise on natural images, in the [0, 1] pixel range.
    """

    attack: str
    threat: Threat
    label_smoothing: float
    noise_std: float


def soft_cross_entropy(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Mean cross-entropy with the soft labels of arXiv 2512.04264: true class 1 − α(N−1)/N, every other class α/N.

    With N classes this is ordinary label smoothing (Szegedy et al. 2016, arXiv 1512.00567).
    """
    return F.cross_entropy(logits, labels, label_smoothing=alpha)


def pgd_at(model: nn.Module, context: LossContext) -> Loss:
    """Adversarial training on adversarial images alone (Madry et al. 2018, arXiv 1706.06083, equation 2.1)."""
    attack = build_attack(context.attack, model, context.threat)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return soft_cross_entropy(model(attack(images, labels)), labels, context.label_smoothing)

    return loss


def mixed_at(model: nn.Module, context: LossContext) -> Loss:
    """The recipe of arXiv 2512.04264: natural images with Gaussian noise together with their adversarial examples.

    The two halves go through the model as one batch, so that batch normalisation sees both.
    """
    attack = build_attack(context.attack, model, context.threat)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        noisy = (images + context.noise_std * torch.randn_like(images)).clamp(0, 1)
        both = torch.cat([noisy, attack(images, labels)])
        return soft_cross_entropy(model(both), torch.cat([labels, labels]), context.label_smoothing)

    return loss


LOSSES: dict[str, Callable[[nn.Module, LossContext], Loss]] = {"pgd-at": pgd_at, "mixed-at": mixed_at}
