"""MixFAT."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from common.methods.method import Method, Turn
from common.training.losses import Loss


class MixFAT(Method):
    """MixFAT (Zizzo et al. 2020, arXiv 2012.01791, section 3): adversarial training on a share of each batch.

    The first k of a batch of B images, k being ``method.mix-share`` of it (rounded, one at least), train by the local
    loss; the others by the cross-entropy of natural images. Each part counts by its images. The two parts go through
    the network one after the other. With PGD-AT, a batch costs the attack's passes for k images alone.
    """

    def loss(self, turn: Turn, loss: Loss) -> Loss:
        """Return the local loss on a share of the batch, and the cross-entropy on the rest."""
        share, smoothing = self.context.mix_share, self.context.label_smoothing

        def mixed(images: Tensor, labels: Tensor) -> Tensor:
            count = max(1, round(share * len(images)))
            attacked = loss(images[:count], labels[:count])
            if count == len(images):
                return attacked
            natural = F.cross_entropy(turn.model(images[count:]), labels[count:], label_smoothing=smoothing)
            return (count * attacked + (len(images) - count) * natural) / len(images)

        return mixed
