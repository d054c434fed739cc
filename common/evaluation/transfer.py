"""Transfer attacks: adversarial examples that were made on one model, and are tried on another.

They are within the same budget, so they are attacks within the threat model: an image that one of them breaks is
broken. Who makes them sees less than an attack on the model itself, so they should not be stronger (Athalye et al.
2018, arXiv 1802.00420, section 3.1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from common.attacks.threat import AttackSpec, Bounded
from common.evaluation.evaluate import needs_gradient, probe
from common.evaluation.results import Evaluation
from common.statistics import sign_test

_LEVEL = 0.01  # as in ``sanity_checks``


def can_transfer(attacks: Sequence[str]) -> list[str]:
    """Return those of the attacks that have a budget: without one, an example is made for its own model alone."""
    return [label for label in attacks if isinstance(AttackSpec.parse(label).family, Bounded)]


def can_see(model: nn.Module, images: NDArray[np.uint8], attacks: Sequence[str]) -> list[str]:
    """Return those of the attacks that can run on a model: where it gives no gradient, some cannot.

    Args:
        model: from pixels [B,3,H,W] in [0, 1] to logits.
        images: uint8 [N,3,H,W], N >= 1.
        attacks: their labels.
    """
    differentiable = probe(model, images)[1]
    return [label for label in attacks if differentiable or not needs_gradient(label)]


def transferred_label(attack: str, name: str) -> str:
    """Return what an attack is called whose examples were made on another model.

    >>> transferred_label("pgd-20", "B")
    'pgd-20 from B'
    """
    return f"{attack} from {name}"


def with_transferred(own: Evaluation, made: Mapping[str, Evaluation]) -> Evaluation:
    """Return an evaluation with the examples that were made on other models; they come before its own attacks.

    Args:
        own: of attacks that see the model.
        made: name of another model -> evaluation of the same model on the same images, with ``made_on`` that one.
    """
    transferred = {
        transferred_label(attack, name): found.predictions[attack]
        for name, found in made.items()
        for attack in found.robust
    }
    return replace(own, predictions={"natural": own.predictions["natural"], **transferred, **own.predictions})


def find_transfer_warnings(own: Evaluation, made: Mapping[str, Evaluation]) -> tuple[str, ...]:
    """Return signs that attacks on the model itself are weak, one sentence each.

    Args:
        own: as in ``with_transferred``.
        made: as there.
    """
    tried = [attack for other in made.values() for attack in other.robust]
    blind_alone = dict.fromkeys(attack for attack in tried if attack not in own.robust)
    found = [
        f"{attack} could not run on the model itself, whose output has no gradient with respect to its input: robust "
        "accuracy is overstated"
        for attack in blind_alone
    ]
    for name, other in made.items():
        for attack in (label for label in other.robust if label in own.robust):
            seeing, blind = own.masks()[attack], other.masks()[attack]
            alone, reverse = int((seeing & ~blind).sum()), int((blind & ~seeing).sum())
            if sign_test(alone, reverse) < _LEVEL:
                found.append(
                    f"{transferred_label(attack, name)} broke {alone} images that {attack} did not, and {attack} "
                    f"{reverse} that it did not: examples made on another model should not be stronger; the gradient "
                    "may be masked"
                )
    return tuple(found)
