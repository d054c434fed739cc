"""Warnings about an evaluation: signs that the attacks were weak, not that the model is strong.

After Athalye et al. 2018 (arXiv 1802.00420, section 3), Carlini et al. 2019 (arXiv 1902.06705, section 5) and the
checks in the code of AutoAttack (Croce and Hein 2020, arXiv 2003.01690).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from common.attacks.library import attack_mode
from common.attacks.threat import AttackSpec, Threat, radius
from common.evaluation.curve_checks import chance_of, large_radius, only
from common.evaluation.evaluate import BATCH, evaluate, probe
from common.evaluation.model_checks import check_model, spread
from common.evaluation.results import Evaluation
from common.seeding import seed_for
from common.statistics import Mask, binomial_tail, sign_test
from common.training.trainer import pixels

_FEW = 200  # examples for the checks that run attacks of their own
_LEVEL = 0.01  # of the tests; the share of false alarms that each check may raise at most
_ITERATIVE = frozenset({"bim", "pgd", "cw", "apgd-ce", "apgd-t", "autoattack"})
_CROSS_ENTROPY = frozenset({"fgsm", "bim", "pgd", "apgd-ce"})
_USUAL_GAPS = (0.1, 100.0)  # between the two largest logits, in the median
_USUAL_GAP = 4.0
_MARGIN = "cw-20"
_OVERSTATED = 0.1  # share of the survivors that it may break: PGD leaves more than AutoAttack on sound models, too
_SQUARE_SHARE = 0.002  # AutoAttack's own threshold for what Square may still break after the others

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def find_warnings(
    model: nn.Module, images: Images, labels: Labels, evaluation: Evaluation, threat: Threat, seed: int, eot: int = 1
) -> tuple[str, ...]:
    """Return the reasons not to trust an evaluation, one sentence each.

    At epsilon 0 or without an attack, only the model's answers are checked.

    Args:
        model: that was evaluated.
        images: uint8 [N,3,H,W], as in ``evaluate``.
        labels: int64 [N].
        evaluation: its result.
        threat: the same.
        seed: of the attacks that are run here, on 200 images at most; >= 0.
        eot: as in ``evaluate``.
    """
    found: list[str | None] = [*check_model(model, images, evaluation, seed, eot)]
    masks = {label: mask for label, mask in evaluation.masks().items() if label not in ("natural", "worst")}
    if threat.epsilon > 0 and masks:
        found += [_one_step(masks), _black_box(masks), _after_the_others(evaluation)]
        if probe(model, images)[1]:
            # The purpose is never renamed: another name would draw other numbers.
            again = _Again(model, images, labels, threat, seed_for(seed, "doubts"), eot)
            found += [
                _zero_gradients(again, spread(evaluation.masks()["natural"], _FEW)),
                _large_budget(again),
                _more_steps(again, masks),
                _margin(again, masks),
                _scale(again, masks),
            ]
        else:
            found.append(
                "the model's output has no gradient with respect to its input, so only black-box attacks could run: "
                "robust accuracy is overstated"
            )
    return tuple(sentence for sentence in found if sentence)


def count_zero_gradients(model: nn.Module, images: Images, labels: Labels) -> int:
    """Return for how many images the gradient of the cross-entropy is exactly zero.

    Args:
        model: from pixels [B,3,H,W] in [0, 1] to logits, differentiable.
        images: uint8 [N,3,H,W], N >= 1.
        labels: int64 [N].
    """
    device, zero = next(model.parameters()).device, 0
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        inputs = pixels(images[rows], device).requires_grad_()
        with attack_mode(model):
            loss = F.cross_entropy(model(inputs), torch.from_numpy(labels[rows]).to(device), reduction="sum")
        gradient = torch.autograd.grad(loss, inputs)[0].flatten(1)
        zero += int((gradient == 0).all(1).sum())
    return zero


def logit_gap(model: nn.Module, images: Images) -> float:
    """Return the median difference between the two largest logits; the arguments are as above."""
    device, starts = next(model.parameters()).device, range(0, len(images), BATCH)
    with torch.no_grad(), attack_mode(model):
        logits = [model(pixels(images[start : start + BATCH], device)).topk(2, dim=1).values for start in starts]
    largest = torch.cat(logits)
    return float((largest[:, 0] - largest[:, 1]).median())


@dataclass(frozen=True)
class _Again:
    """What attacks of the checks are run with: everything as in the evaluation, but on fewer images."""

    model: nn.Module
    images: Images
    labels: Labels
    threat: Threat
    seed: int
    eot: int

    def attack(self, rows: NDArray[np.int64], *labels: str, **other: Any) -> Evaluation:
        """Run attacks on some of the images; ``other`` takes the place of what is above."""
        use = replace(self, **other)
        return evaluate(
            *(use.model, use.images[rows], use.labels[rows], labels, use.threat, use.seed),
            eot=use.eot,
        )


def _name(label: str) -> str:
    return AttackSpec.parse(label).name


def _strongest(masks: dict[str, Mask]) -> str | None:
    return min(masks, key=lambda label: int(masks[label].sum()), default=None)


def _one_step(masks: dict[str, Mask]) -> str | None:
    strongest = _strongest({label: mask for label, mask in masks.items() if _name(label) in _ITERATIVE})
    if strongest is None or "fgsm" not in masks:
        return None
    alone, reverse = only(masks["fgsm"], masks[strongest])
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
    alone, reverse = only(masks[square], np.logical_and.reduce(others))
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


def _zero_gradients(again: _Again, rows: NDArray[np.int64]) -> str | None:
    if len(rows) == 0:
        return None
    zero = count_zero_gradients(again.model, again.images[rows], again.labels[rows])
    if zero <= 0.01 * len(rows):
        return None
    return (
        f"the gradient of the loss is exactly zero for {zero} of {len(rows)} images: attacks that follow it cannot "
        "change them; use cw or apgd-t, whose losses may have a gradient, and square, which needs none"
    )


def _large_budget(again: _Again) -> str | None:
    rows = spread(np.ones(len(again.labels), bool), _FEW)
    norm, image = again.threat.norm, again.images[0]
    epsilon = max(large_radius(norm, image.size), again.threat.epsilon)
    left = again.attack(rows, "pgd-20", threat=Threat.reaching(epsilon, 20, norm)).robust["pgd-20"]
    chance = chance_of(again.labels[rows])
    if binomial_tail(left.correct, left.n, chance) >= _LEVEL:
        return None
    return (
        f"under pgd-20 at epsilon {radius(255 * epsilon, norm)}, {100 * left.value:.1f} % of {left.n} images are still "
        f"classified correctly, more than by chance ({100 * chance:.1f} %): an attack that works would break them all "
        "at this epsilon"
    )


def _more_steps(again: _Again, masks: dict[str, Mask]) -> str | None:
    """Run both attacks again, so that neither benefits from a luckier random start."""
    weaker = _strongest({label: mask for label, mask in masks.items() if _name(label) == "pgd"})
    rows = spread(masks[weaker], _FEW) if weaker else np.zeros(0, np.int64)
    if weaker is None or len(rows) == 0:
        return None
    steps = AttackSpec.parse(weaker).steps
    short, long = str(AttackSpec("pgd", steps)), str(AttackSpec("pgd", 2 * steps))
    found = again.attack(rows, short, long).masks()
    alone, reverse = only(found[long], found[short])
    if sign_test(alone, reverse) >= _LEVEL:
        return None
    return (
        f"in a test on {len(rows)} images that survived {weaker}, {long} broke {alone} that {short} did not break, and "
        f"{short} {reverse} that {long} did not: {steps} steps are too few"
    )


def _margin(again: _Again, masks: dict[str, Mask]) -> str | None:
    """Attack the survivors on the margin, whose gradient has the same direction whatever the scale of the logits."""
    rows = spread(np.logical_and.reduce(list(masks.values())), _FEW)
    if len(rows) == 0:
        return None
    broken = len(rows) - again.attack(rows, _MARGIN).robust[_MARGIN].correct
    if binomial_tail(broken, len(rows), _OVERSTATED) >= _LEVEL:
        return None
    return (
        f"{_MARGIN}, which does not depend on the scale of the logits, broke {broken} of {len(rows)} images that "
        f"survived {', '.join(masks)}: robust accuracy is overstated; evaluate with autoattack"
    )


def _scale(again: _Again, masks: dict[str, Mask]) -> str | None:
    """Where the logits have an unusual scale, attack them on a usual one, from the same random starts."""
    weaker = _strongest({label: mask for label, mask in masks.items() if _name(label) in _CROSS_ENTROPY})
    rows = spread(masks[weaker], _FEW) if weaker else np.zeros(0, np.int64)
    if weaker is None or len(rows) == 0:
        return None
    gap = logit_gap(again.model, again.images[rows])
    if not 0 < gap < float("inf") or _USUAL_GAPS[0] <= gap <= _USUAL_GAPS[1]:
        return None
    label = f"pgd-{AttackSpec.parse(weaker).steps or 20}"
    given = again.attack(rows, label).masks()[label]
    factor = _USUAL_GAP / gap
    usual = again.attack(rows, label, model=_Scaled(again.model, factor)).masks()[label]
    alone, reverse = only(usual, given)
    if sign_test(alone, reverse) >= _LEVEL:
        return None
    return (
        f"the logits have an unusual scale (the two largest differ by {gap:.2g} in the median), where attacks on the "
        f"cross-entropy are weak: of {len(rows)} images that survived {weaker}, {label} broke {alone} more when the "
        f"logits were multiplied by {factor:.2g}, and {reverse} fewer; trust cw, apgd-t and autoattack instead"
    )


class _Scaled(nn.Module):
    """A model with its logits multiplied by a number: the same predictions."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self._model, self._factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self._factor * self._model(images)
        return logits
