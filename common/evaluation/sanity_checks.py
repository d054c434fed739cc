"""Warnings about an evaluation: signs that the attacks were weak, not that the model is strong.

After Athalye et al. 2018 (arXiv 1802.00420, section 3), Carlini et al. 2019 (arXiv 1902.06705, section 5) and the
checks in the code of AutoAttack (Croce and Hein 2020, arXiv 2003.01690).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812

from common.attacks.library import attack_mode
from common.attacks.threat import AttackSpec, Threat
from common.evaluation.evaluate import evaluate, probe
from common.evaluation.results import Evaluation
from common.seeding import seed_for
from common.statistics import Mask, binomial_tail, sign_test
from common.training.trainer import pixels

_FEW = 200  # examples for the checks that run attacks of their own
_LEVEL = 0.01  # of the tests; the share of false alarms that each check may raise at most
_LARGE = 64 / 255
_ITERATIVE = frozenset({"bim", "pgd", "cw", "apgd-ce", "apgd-t", "autoattack"})
_SQUARE_SHARE = 0.002  # AutoAttack's own threshold for what Square may still break after the others

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def find_warnings(
    model: nn.Module, images: Images, labels: Labels, evaluation: Evaluation, threat: Threat, seed: int
) -> tuple[str, ...]:
    """Return the reasons not to trust an evaluation, one sentence each; none at epsilon 0 or without an attack.

    Args:
        model: that was evaluated.
        images: uint8 [N,3,H,W], as in ``evaluate``.
        labels: int64 [N].
        evaluation: its result.
        threat: the same.
        seed: of the attacks that are run here, on 200 images at most; >= 0.
    """
    masks = {label: mask for label, mask in evaluation.masks().items() if label not in ("natural", "worst")}
    if threat.epsilon == 0 or not masks:
        return ()
    found = [_one_step(masks), _black_box(masks), _after_the_others(evaluation)]
    if probe(model, images)[1]:
        seed = seed_for(seed, "doubts")  # never renamed: another name would draw other numbers
        natural = evaluation.masks()["natural"]
        found += [
            _zero_gradients(model, images, labels, _spread(natural)),
            _large_budget(model, images, labels, threat, seed),
            _more_steps(model, images, labels, masks, threat, seed),
        ]
    else:
        found.append(
            "the model's output has no gradient with respect to its input, so only black-box attacks could run: "
            "robust accuracy is overstated"
        )
    return tuple(sentence for sentence in found if sentence)


def _only(broken: Mask, other: Mask) -> tuple[int, int]:
    """Count the examples that are wrong only in the first mask, and only in the second."""
    return int((~broken & other).sum()), int((broken & ~other).sum())


def _name(label: str) -> str:
    return AttackSpec.parse(label).name


def _strongest(masks: dict[str, Mask]) -> str | None:
    return min(masks, key=lambda label: int(masks[label].sum()), default=None)


def _one_step(masks: dict[str, Mask]) -> str | None:
    strongest = _strongest({label: mask for label, mask in masks.items() if _name(label) in _ITERATIVE})
    if strongest is None or "fgsm" not in masks:
        return None
    alone, reverse = _only(masks["fgsm"], masks[strongest])
    if sign_test(alone, reverse) >= _LEVEL:
        return None
    return (
        f"fgsm broke {alone} images that {strongest} did not, and {strongest} {reverse} that fgsm did not: one step "
        "should not be stronger than many; the gradient may be masked, or the step size wrong"
    )


def _black_box(masks: dict[str, Mask]) -> str | None:
    squares = {label: mask for label, mask in masks.items() if _name(label) == "square"}
    others = [mask for label, mask in masks.items() if _name(label) not in ("square", "autoattack")]
    square = _strongest(squares)
    if square is None or not others:
        return None
    alone, reverse = _only(masks[square], np.logical_and.reduce(others))
    if sign_test(alone, reverse) >= _LEVEL:
        return None
    return (
        f"{square} broke {alone} images that no attack with gradients broke, and these broke {reverse} that it did "
        "not: a black-box attack should not be stronger; the gradient may be masked"
    )


def _after_the_others(evaluation: Evaluation) -> str | None:
    if "square" not in evaluation.parts:
        return None
    broken = evaluation.parts["fab-t"].correct - evaluation.parts["square"].correct
    if binomial_tail(broken, evaluation.n, _SQUARE_SHARE) >= _LEVEL:
        return None
    return (
        f"square, the black-box part of autoattack, broke {broken} of {evaluation.n} images that its other parts did "
        "not break: the gradient may be masked"
    )


def _zero_gradients(model: nn.Module, images: Images, labels: Labels, rows: NDArray[np.int64]) -> str | None:
    if len(rows) == 0:
        return None
    device = next(model.parameters()).device
    inputs = pixels(images[rows], device).requires_grad_()
    with attack_mode(model):
        loss = F.cross_entropy(model(inputs), torch.from_numpy(labels[rows]).to(device), reduction="sum")
    gradient = torch.autograd.grad(loss, inputs)[0].flatten(1)
    zero = int((gradient == 0).all(1).sum())
    if zero <= 0.01 * len(rows):
        return None
    return (
        f"the gradient of the loss is exactly zero for {zero} of {len(rows)} images: attacks that follow it cannot "
        "change them; use cw, apgd-t or square as well"
    )


def _large_budget(model: nn.Module, images: Images, labels: Labels, threat: Threat, seed: int) -> str | None:
    rows = _spread(np.ones(len(labels), bool))
    epsilon = max(_LARGE, threat.epsilon)
    large = Threat.reaching(epsilon, 20)
    left = evaluate(model, images[rows], labels[rows], ("pgd-20",), large, seed).robust["pgd-20"]
    chance = float(np.bincount(labels[rows]).max()) / len(rows)  # the accuracy of a constant prediction
    if binomial_tail(left.correct, left.n, chance) >= _LEVEL:
        return None
    return (
        f"under pgd-20 at epsilon {255 * epsilon:g}/255, {100 * left.value:.1f} % of {left.n} images are still "
        f"classified correctly, more than by chance ({100 * chance:.1f} %): an attack that works would break them all "
        "at this epsilon"
    )


def _more_steps(
    model: nn.Module, images: Images, labels: Labels, masks: dict[str, Mask], threat: Threat, seed: int
) -> str | None:
    """Run both attacks again, so that neither benefits from a luckier random start."""
    weaker = _strongest({label: mask for label, mask in masks.items() if _name(label) == "pgd"})
    rows = _spread(masks[weaker]) if weaker else np.zeros(0, np.int64)
    if weaker is None or len(rows) == 0:
        return None
    steps = AttackSpec.parse(weaker).steps
    short, long = str(AttackSpec("pgd", steps)), str(AttackSpec("pgd", 2 * steps))
    again = evaluate(model, images[rows], labels[rows], (short, long), threat, seed).masks()
    alone, reverse = _only(again[long], again[short])
    if sign_test(alone, reverse) >= _LEVEL:
        return None
    return (
        f"in a test on {len(rows)} images that survived {weaker}, {long} broke {alone} that {short} did not break, and "
        f"{short} {reverse} that {long} did not: {steps} steps are too few"
    )


def _spread(mask: Mask) -> NDArray[np.int64]:
    """Return 200 rows at most for which the mask holds, evenly spaced, since images may lie in the classes' order."""
    rows = np.flatnonzero(mask)
    return rows[np.linspace(0, len(rows) - 1, min(_FEW, len(rows))).round().astype(np.int64)]
