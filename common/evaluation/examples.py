"""A few images with their adversarial versions, to look at."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.attacks.library import AUTOATTACK, OF_EVALUATION, attack_mode, build_attack
from common.attacks.threat import AttackSpec, Threat
from common.evaluation.results import Evaluation
from common.seeding import seed_for
from common.training.trainer import pixels

_COUNT = 8


def attack_examples(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    evaluation: Evaluation,
    threat: Threat,
    seed: int,
    eot: int = 1,
) -> dict[str, NDArray[Any]]:
    """Attack up to 8 images that are classified correctly, of different classes as far as there are enough.

    Images that the last attack of the evaluation breaks come first.

    Args:
        model: that was evaluated.
        images: uint8 [N,3,H,W], as in ``evaluate``.
        labels: int64 [N].
        evaluation: its result.
        threat: the same.
        seed: of the attack, >= 0.
        eot: as in ``evaluate``.

    Returns:
        ``example_images`` uint8 [K,3,H,W], ``example_adversarial`` float32 [K,3,H,W] in [0, 1], and int64
        [K] each: ``example_labels``, the true class, ``example_natural`` and ``example_attacked``, the predictions for
        the two versions; ``example_attack``, the attack's label. K is 0 without an attack or at epsilon 0.

    Raises:
        FedShieldError: a user's attack fails.
    """
    masks = evaluation.masks()
    bounded = [label for label in evaluation.predictions if label != "natural"]
    label = bounded[-1] if bounded and threat.epsilon > 0 else "none"
    shown = AUTOATTACK[0] if label == "autoattack" else label
    rows = _choose(labels, masks["natural"], masks[label]) if label in masks else np.zeros(0, np.int64)
    device = next(model.parameters()).device
    inputs, targets = pixels(images[rows], device), torch.from_numpy(labels[rows]).to(device)
    adversarial = inputs
    if len(rows):
        spec = AttackSpec.parse(shown)
        torch.manual_seed(seed_for(seed, "examples"))
        run = build_attack(spec.name, model, spec.within(threat), evaluation.classes, OF_EVALUATION, eot=eot)
        adversarial = run(inputs, targets)
    attacked = np.zeros(0, np.int64)
    if len(rows):
        with torch.no_grad(), attack_mode(model):
            attacked = model(adversarial).argmax(1).cpu().numpy()
    return {
        "example_images": images[rows],
        "example_adversarial": adversarial.cpu().numpy(),
        "example_labels": labels[rows],
        "example_natural": evaluation.predictions["natural"][rows].astype(np.int64),
        "example_attacked": attacked,
        "example_attack": np.array(shown),
    }


def _choose(labels: NDArray[np.int64], natural: NDArray[np.bool_], robust: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Take the first of each class, then the second of each, and so on; broken ones before robust ones."""
    rows = np.flatnonzero(natural)
    place = np.zeros(len(rows), np.int64)
    for group in np.unique(labels[rows]):
        own = np.flatnonzero(labels[rows] == group)
        own = own[np.argsort(robust[rows[own]], kind="stable")]
        place[own] = np.arange(len(own))
    return np.sort(rows[np.lexsort((place, robust[rows]))][:_COUNT])
