"""PGD on the margin of Carlini and Wagner, a torchattacks attack."""

import torch
import torchattacks
from torch import Tensor


class MarginPGD(torchattacks.PGD):  # type: ignore[misc]
    """Ascends max over k ≠ y of z_k − z_y inside an Linf ball.

    Carlini and Wagner 2017 (arXiv 1608.04644, f_6 of section V) with the ball of Madry et al. instead of their L2
    penalty, which papers on adversarial training call CW or CW∞. Arguments as in ``torchattacks.PGD``.
    """

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return adversarial images for images [B,3,H,W] in [0, 1] and labels [B]."""
        images, labels = images.detach(), labels.detach()
        adversarial = images.clone()
        if self.random_start:
            adversarial = (adversarial + torch.empty_like(images).uniform_(-self.eps, self.eps)).clamp(0, 1)
        for _ in range(self.steps):
            adversarial.requires_grad_()
            logits = self.get_logits(adversarial)
            gradient = torch.autograd.grad(margin(logits, labels).sum(), adversarial)[0]
            moved = adversarial.detach() + self.alpha * gradient.sign()
            adversarial = (images + (moved - images).clamp(-self.eps, self.eps)).clamp(0, 1)
        return adversarial


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return max over k ≠ y of z_k − z_y for logits [B,N]: above 0 when the example is misclassified."""
    own = labels[:, None]
    return logits.scatter(1, own, -torch.inf).amax(1) - logits.gather(1, own)[:, 0]
