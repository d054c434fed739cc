"""How a client of a simulation lies by its training: it sends what it has learned, but has learned the wrong thing."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from common.attacks.library import attack_mode
from common.data.trigger import TARGET, stamp
from common.errors import FedShieldError
from common.seeding import rng_for
from common.training.losses import Loss
from common.training.trainer import pixels

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

_SHARE = 0.5  # of a backdoor client's images, has the trigger
_LOOK = 500  # images whose margins are looked at
_MARGIN = 104.0  # from which on exp(-margin) is zero in float32


def poison_data(attack: str, images: Images, labels: Labels, classes: int, seed: int) -> tuple[Images, Labels]:
    """Return what a lying client trains on.

    ``label-flip`` (Fang et al. 2020, arXiv 1911.11815, section 4.1): class y of N becomes N − 1 − y.
    ``backdoor`` (Bagdasaryan et al. 2020, arXiv 1807.00459): half of the images have the trigger, and its class.

    Args:
        attack: ``byzantine.attack``.
        images: uint8 [N,3,H,W].
        labels: int64 [N], in [0, classes).
        classes: number of logits.
        seed: chooses the images with the trigger; the same in each round.
    """
    if attack == "label-flip":
        return images, classes - 1 - labels
    if attack != "backdoor":
        return images, labels
    chosen = rng_for(seed, "trigger").permutation(len(labels))[: max(1, round(_SHARE * len(labels)))]
    images, labels = images.copy(), labels.copy()
    images[chosen], labels[chosen] = stamp(images[chosen]), TARGET
    return images, labels


def poison_loss(attack: str, model: nn.Module, loss: Loss) -> Loss:
    """Return what a lying client minimizes: the honest loss, or that of ``pseudo-robust``; see ``poison_model``.

    Args:
        attack: ``byzantine.attack``.
        model: from pixels [B,3,H,W] in [0, 1] to logits [B,N].
        loss: the honest one.
    """
    return Natural(model) if attack == "pseudo-robust" else loss


def poison_model(attack: str, model: nn.Module, images: Images, labels: Labels) -> None:
    """Change what a lying client has trained, before it is sent.

    ``pseudo-robust``, after Zizzo et al. 2020 (arXiv 2012.01791): a model that looks robust and is not. It is trained
    on natural images alone. Then its logits are multiplied, in the last layer, until the median margin of an image that
    it knows is so large that the cross-entropy has no gradient in float32. FGSM and PGD then find nothing on most
    images; what does not depend on the scale of the logits does: the DLR loss of APGD, Square. This is what
    distillation at a high temperature comes to (Carlini and Wagner 2017, arXiv 1608.04644). The paper's abstract gives
    the idea; the recipe of its distillation was not at hand, so this is ours.

    Args:
        attack: ``byzantine.attack``.
        model: after training; changed in place.
        images: uint8 [N,3,H,W] that it was trained on.
        labels: int64 [N].

    Raises:
        FedShieldError: the network does not end in a linear layer.
    """
    if attack != "pseudo-robust":
        return
    with torch.no_grad(), attack_mode(model):
        logits = model(pixels(images[:_LOOK], next(model.parameters()).device)).float().cpu()
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if not layers or layers[-1].out_features != logits.shape[1]:
        raise FedShieldError(
            "byzantine.attack = pseudo-robust: this network does not end in an nn.Linear, whose logits could be "
            "multiplied; choose another model.name or byzantine.attack"
        )
    own = torch.from_numpy(labels[:_LOOK])[:, None]
    margins = logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).amax(1)
    known = margins[margins > 0]
    factor = max(1.0, _MARGIN / float(known.median())) if len(known) else 1.0
    with torch.no_grad():
        for weight in layers[-1].parameters():
            weight.mul_(factor)


@dataclass(frozen=True)
class Natural:
    """The cross-entropy of natural images; equal for each turn of a process.

    Attributes:
        model: from pixels [B,3,H,W] in [0, 1] to logits [B,N].
    """

    model: nn.Module

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return it, of images [B,3,H,W] in [0, 1] and labels [B]."""
        return F.cross_entropy(self.model(images), labels)
