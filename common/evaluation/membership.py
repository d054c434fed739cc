"""Membership inference: how well an attacker tells images that a model was trained on from images it never saw.

Every attack gives each image a score, higher for an image that looks more like one of the training. Its figures are the
area under the ROC curve (AUC: 0.5 is guessing) and the true positive rate at low false positive rates, as Carlini et
al. 2022 (arXiv 2112.03570) ask for: an attack that is sure of a few images does harm, whatever it does on average.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.attacks.library import Attack, attack_mode
from common.data.draws import balanced_subset
from common.errors import FedShieldError
from common.seeding import rng_for, seed_for
from common.statistics import auc_interval
from common.training.trainer import pixels

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

LOW_RATES = (0.01, 0.001)  # false positive rates at which the true positive rate is told


def confidences(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    batch_size: int,
    attack: Attack | None = None,
    seed: int = 0,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return how sure a model is of the true class of each image, φ = log(p / (1 - p)), and whether it is right.

    φ is the scaled confidence of Carlini et al. 2022. The cross-entropy is log(1 + exp(-φ)), which falls as φ rises: so
    φ puts images in the order of the loss threshold (Yeom et al. 2018, arXiv 1709.01604), and keeps them apart where
    the loss is rounded to 0. On adversarial examples it gives the attack of Song et al. 2019 (arXiv 1905.10291).

    Args:
        model: from pixels [B,3,H,W] in [0, 1] to logits [B,classes], classes >= 2; every module keeps its mode.
        images: uint8 [N,3,H,W], N >= 1.
        labels: int64 [N], the true classes.
        batch_size: images at a time, >= 1.
        attack: makes the examples that are shown in place of the images.
        seed: of the attack's random starts, >= 0.

    Returns:
        φ, float64 [N], and bool [N].

    Raises:
        FedShieldError: the model's logits are not finite; the caller says whose.
    """
    device = next(model.parameters()).device
    found, right = [], []
    for start in range(0, len(images), batch_size):
        torch.manual_seed(seed_for(seed, "membership", start))
        shown = pixels(images[start : start + batch_size], device)
        truth = torch.from_numpy(labels[start : start + batch_size]).to(device)
        shown = shown if attack is None else attack(shown, truth)
        with torch.no_grad(), attack_mode(model):
            logits, truth = model(shown).cpu().double(), truth.cpu()
        own = logits.gather(1, truth[:, None])[:, 0]
        others = logits.scatter(1, truth[:, None], -torch.inf).logsumexp(1)
        found.append((own - others).numpy())
        right.append((logits.argmax(1) == truth).numpy())
    sure = np.concatenate(found)
    if not np.isfinite(sure).all():
        raise FedShieldError("its logits are not finite, so it has no confidence in any class to look at")
    return sure, np.concatenate(right)


def matched_rows(
    members: NDArray[np.int64], others: NDArray[np.int64], classes: int, examples: int, seed: int
) -> tuple[Rows, Rows]:
    """Choose as many members as others, with equally many of each class on both sides, balanced as far as they allow.

    What tells the sides apart can then be neither their size nor a class. A choice of others with fewer of a class is
    contained in one with more, so that groups of members share most of their others.

    Args:
        members: int64 [M], classes of the images that were trained on.
        others: int64 [N], classes of those that were not.
        classes: how many there are.
        examples: images a side, at most; 0 = as many as there are.
        seed: of the draw, >= 0.

    Returns:
        Increasing rows of the members and of the others; none where they have no class in common.
    """
    limits = np.minimum(*(np.bincount(labels, minlength=classes) for labels in (members, others)))
    allowed = _first_of_each(members, limits, seed, "members")
    chosen = allowed[balanced_subset(members[allowed], examples, seed, "members")]
    return chosen, _first_of_each(others, np.bincount(members[chosen], minlength=classes), seed, "others")


def _first_of_each(labels: NDArray[np.int64], counts: NDArray[np.int64], seed: int, purpose: str) -> Rows:
    """Return so many rows of each class, the first in an order that only the seed decides; increasing."""
    order = rng_for(seed, "membership", purpose).permutation(len(labels))
    rows = [order[labels[order] == label][:count] for label, count in enumerate(counts)]
    return np.sort(np.concatenate(rows))


def area_under_curve(members: Floats, others: Floats) -> float:
    """Return the AUC: how often a member has a higher score than another image, ties counting half (Mann-Whitney).

    >>> area_under_curve(np.array([3.0, 2.0]), np.array([2.0, 1.0]))
    0.875

    Args:
        members: float64 [M], M >= 1, scores of images that were trained on.
        others: float64 [N], N >= 1, scores of images that were not.

    Returns:
        In [0, 1]; 0.5 is guessing.
    """
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, members, side).sum() for side in ("left", "right"))
    return float(below + up_to) / (2 * len(members) * len(others))


def true_positive_rate(members: Floats, others: Floats, rate: float) -> float | None:
    """Return the share of the members that lie above the threshold which at most ``rate`` of the others lie above.

    >>> true_positive_rate(np.array([5.0, 3.0, 1.0]), np.array([4.0, 2.0]), 0.5)
    0.6666666666666666

    Args:
        members: as in ``area_under_curve``.
        others: as there.
        rate: of false positives, in (0, 1).

    Returns:
        In [0, 1]; guessing gives ``rate``. None with fewer than 1 / ``rate`` others: not one of them may be above.
    """
    above = int(round(rate * len(others), 9))  # 0.29 × 100 is a little less than 29 in floats
    if above == 0:
        return None
    threshold = np.sort(others)[len(others) - above - 1] if above < len(others) else -np.inf
    return float((members > threshold).mean())


def figures_of(members: Floats, others: Floats) -> dict[str, Any]:
    """Return the figures of one attack for a results file: ``auc``, its 95 % ``interval``, and ``tpr`` by rate.

    Args:
        members: as in ``area_under_curve``.
        others: as there.
    """
    auc = area_under_curve(members, others)
    return {
        "auc": auc,
        "interval": list(auc_interval(auc, len(members), len(others))),
        "tpr": {f"{rate:g}": true_positive_rate(members, others, rate) for rate in LOW_RATES},
    }
