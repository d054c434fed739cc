"""Attacks without a budget."""

from collections.abc import Callable

import torch
from torch import Tensor

from common.attacks.threat import L2, Threat

Attack = Callable[[Tensor, Tensor], Tensor]
"""(images [B,3,H,W] in [0, 1], labels [B]) -> adversarial images, same shape and range."""


class MinimalAttack:
    """An attack that looks for the smallest change that changes the prediction, however large this is.

    Args:
        attack: the search. Where its result is not finite, it has failed, and the image stays as it is.
    """

    def __init__(self, attack: Attack) -> None:
        self._attack = attack

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Attack images [B,3,H,W] in [0, 1] with labels [B]."""
        adversarial = self._attack(images, labels)
        # DeepFool divides by the gradient's norm, which may be zero.
        found = adversarial.isfinite().flatten(1).all(1)
        return torch.where(found[:, None, None, None], adversarial, images)

    def within(self, threat: Threat) -> Attack:
        """Return the same attack with its result moved into the ball: pixel by pixel (Linf), or shortened (L2)."""
        from common.attacks.l2 import shortened

        def project(images: Tensor, labels: Tensor) -> Tensor:
            change = self(images, labels) - images
            if threat.norm == L2:
                return (images + shortened(change, threat.epsilon)).clamp(0, 1)
            return (images + change.clamp(-threat.epsilon, threat.epsilon)).clamp(0, 1)

        return project
