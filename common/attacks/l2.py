"""Gradient attacks in an L2 ball, as torchattacks attacks."""

from collections.abc import Callable
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from common.attacks.cw_linf import margin
from common.attacks.threat import Threat

_ONE = 1, 2, 3  # the dimensions of one image
_TINY = torch.finfo(torch.float32).tiny

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits [B,N], labels [B], logits of the unchanged images [B,N]) -> what the attack makes larger, [B]."""


class GradientL2(torchattacks.PGD):  # type: ignore[misc]
    """Ascends an objective in steps of a given L2 length, inside an L2 ball and the pixel range.

    With the cross-entropy it is ``torchattacks.PGDL2``, with three faults mended. That one cannot attack a network that
    gives its gradient in the channels-last order, as folded ones do. It makes hardly a step where the gradient is very
    small, because it adds 1e-10 to its length. It returns no numbers where epsilon is 0.

    Args:
        model: from pixels [B,3,H,W] in [0, 1] to logits [B,N].
        threat: an L2 ball, with step size and number of steps.
        objective: what to make larger.
        start: ``none``; ``ball`` for a random point of it, as in ``torchattacks.PGDL2``; ``near`` for Gaussian noise of
            standard deviation 0.001, as in TRADES.
    """

    def __init__(self, model: nn.Module, threat: Threat, objective: Objective, start: str) -> None:
        super().__init__(model, eps=threat.epsilon, alpha=threat.step, steps=threat.steps, random_start=start == "ball")
        self._objective, self._start = objective, start

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return adversarial images for images [B,3,H,W] in [0, 1] and labels [B]."""
        images, labels = images.detach(), labels.detach()
        with torch.no_grad():
            natural = self.get_logits(images) if self._objective is divergence else images.new_empty(0)
        adversarial = self._moved(images, self._first(images))
        for _ in range(self.steps):
            adversarial.requires_grad_()
            gain = self._objective(self.get_logits(adversarial), labels, natural).sum()
            gradient = torch.autograd.grad(gain, adversarial)[0]
            adversarial = self._moved(images, adversarial.detach() - images + self.alpha * direction(gradient))
        return adversarial

    def _first(self, images: Tensor) -> Tensor:
        if self._start == "near":
            return 0.001 * torch.randn_like(images)
        if self._start == "none":
            return torch.zeros_like(images)
        change = torch.empty_like(images).normal_()
        length = torch.empty_like(images[:, :1, :1, :1]).uniform_()
        started: Tensor = change * (length / lengths(change) * self.eps)
        return started

    def _moved(self, images: Tensor, change: Tensor) -> Tensor:
        moved: Tensor = (images + shortened(change, self.eps)).clamp(0, 1)
        return moved


def lengths(changes: Tensor) -> Tensor:
    """Return the L2 length of each change: [B,3,H,W] -> [B,1,1,1]."""
    found: Tensor = torch.linalg.vector_norm(changes, dim=_ONE, keepdim=True)
    return found


def direction(gradients: Tensor) -> Tensor:
    """Return gradients [B,3,H,W], each of L2 length 1 however small it was; one that is zero stays so."""
    scaled = gradients / gradients.abs().amax(_ONE, keepdim=True).clamp(min=_TINY)  # its squares do not vanish
    unit: Tensor = scaled / lengths(scaled).clamp(min=_TINY)
    return unit


def shortened(changes: Tensor, epsilon: float) -> Tensor:
    """Return changes [B,3,H,W], those longer than epsilon shortened to it: the projection onto the L2 ball."""
    short: Tensor = changes * (epsilon / lengths(changes).clamp(min=_TINY)).clamp(max=1)
    return short


def cross_entropy(logits: Tensor, labels: Tensor, natural: Tensor) -> Tensor:
    """The objective of FGM, BIM and PGD."""
    return F.cross_entropy(logits, labels, reduction="none")


def cw_margin(logits: Tensor, labels: Tensor, natural: Tensor) -> Tensor:
    """The objective of ``cw``; see ``MarginPGD``."""
    return margin(logits, labels)


def divergence(logits: Tensor, labels: Tensor, natural: Tensor) -> Tensor:
    """The objective of TRADES: the KL divergence from the prediction for the unchanged image."""
    return F.kl_div(F.log_softmax(logits, 1), F.softmax(natural, 1), reduction="none").sum(1)


def build_l2(name: str, model: nn.Module, threat: Threat) -> Any:
    """Return one of ``GRADIENT`` in the L2 ball of a threat; ``fgsm`` is one step as long as its radius (FGM)."""
    if name == "fgsm":
        threat = Threat(threat.epsilon, threat.epsilon, 1, threat.norm)
    objective, start = GRADIENT[name]
    return GradientL2(model, threat, objective, start)


GRADIENT: dict[str, tuple[Objective, str]] = {
    "fgsm": (cross_entropy, "none"),
    "bim": (cross_entropy, "none"),
    "pgd": (cross_entropy, "ball"),
    "kl": (divergence, "near"),
    "cw": (cw_margin, "ball"),
}
