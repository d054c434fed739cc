"""MixFAT."""

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from common.methods.method import Method, Turn
from common.training.losses import Loss


class MixFAT(Method):
    """MixFAT (Zizzo et al. 2020, arXiv 2012.01791, section 3): adversarial training on a share of each batch.

    The first k of a batch of B images, k being ``method.mix-share`` of it, rounded, train by the local loss; the others
    by the cross-entropy of natural images. Each part counts by its images. The two parts go through the network one
    after the other. With PGD-AT, a batch costs the attack's passes for k images alone.
    """

    records = True

    def loss(self, turn: Turn, loss: Loss) -> Loss:
        """Return the local loss on a share of the batch, and the cross-entropy on the rest."""
        return _Mixed(turn.model, loss, self.context.mix_share, self.context.label_smoothing)

    def passes(self, local: float, trained: int) -> float:
        """Return the passes of the local loss for its share, and three for a natural image."""
        share = self.context.mix_share
        return share * local + 3 * (1 - share)


@dataclass(frozen=True)
class _Mixed:
    """Equal for each turn of a process, so that a batch is recorded once."""

    model: nn.Module
    local: Loss
    share: float
    smoothing: float

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        count = attacked_images(self.share, len(images))
        attacked = self.local(images[:count], labels[:count])
        if count == len(images):
            return attacked
        natural = F.cross_entropy(self.model(images[count:]), labels[count:], label_smoothing=self.smoothing)
        return (count * attacked + (len(images) - count) * natural) / len(images)


def attacked_images(share: float, images: int) -> int:
    """Return how many images of a batch train by the local loss; neither part has a single one, if that can be.

    Batch normalization over a single value is not defined; of fewer than four images, all are attacked.

    >>> [attacked_images(0.5, images) for images in (1, 3, 4, 5, 16)], attacked_images(0.01, 16)
    ([1, 3, 2, 2, 8], 2)
    """
    count = round(share * images)
    return images if images < 4 or count > images - 2 else max(2, count)
