"""Checks of a model: whether its answers are what the attacks of an evaluation rely on.

Those of AutoAttack's code (``checks.py``; Croce and Hein 2020, arXiv 2003.01690), except the first and the third.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.attacks.library import attack_mode
from common.evaluation.results import Evaluation
from common.models.modes import keep_statistics
from common.seeding import seed_for
from common.statistics import Mask, binomial_tail
from common.training.trainer import pixels

EOT = 20  # forward passes that an attack on a randomized model averages, as in AutoAttack's version for these
_FEW = 64  # images to look at
_PASSES = 5
_SAME = 1e-4  # largest relative difference of logits that are the same, as in AutoAttack
_ROUNDED = 1e-3  # the same for batches of another size, which another kernel may compute
_COLLAPSED = 0.99  # least share of one class among all predictions
_LEVEL = 0.01

Images = NDArray[np.uint8]


def is_randomized(model: nn.Module, images: Images, seed: int) -> bool:
    """Return whether a model answers differently when it is shown the same images again.

    Args:
        model: from pixels [B,3,H,W] in [0, 1] to logits.
        images: uint8 [N,3,H,W], N >= 1; 64 of them are shown.
        seed: of what the model may draw, >= 0.
    """
    return _count_restless(model, images, seed) > 0


def check_model(model: nn.Module, images: Images, evaluation: Evaluation, seed: int, eot: int) -> list[str]:
    """Return what is wrong with a model's answers, one sentence each.

    Args:
        model: that was evaluated.
        images: uint8 [N,3,H,W], as in ``evaluate``.
        evaluation: its result.
        seed: of what the model may draw, >= 0.
        eot: as in ``evaluate``.
    """
    restless = _count_restless(model, images, seed)
    found = [
        _not_finite(evaluation),
        _one_class(evaluation),
        _randomized(restless, min(_FEW, len(images)), eot),
        _batches(model, images) if not restless else None,
        _range(model, images),
        _gradients_inside(model, images),
    ]
    return [sentence for sentence in found if sentence]


def spread(mask: Mask, most: int) -> NDArray[np.int64]:
    """Return rows for which the mask holds, evenly spaced, since images may lie in the classes' order.

    Args:
        mask: bool [N].
        most: how many rows, 1 or more.
    """
    rows = np.flatnonzero(mask)
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64)]


def _shown(model: nn.Module, images: Images) -> Tensor:
    return pixels(images[spread(np.ones(len(images), bool), _FEW)], next(model.parameters()).device)


def _answer(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad(), attack_mode(model), keep_statistics(model):
        logits: Tensor = model(inputs)
    return logits


def _differ(one: Tensor, other: Tensor, tolerance: float) -> Tensor:
    """Return for which images two answers [B,N] differ, relative to their length."""
    length = torch.maximum(one.norm(dim=1), other.norm(dim=1))
    different: Tensor = (one - other).norm(dim=1) > tolerance * length
    return different


def _count_restless(model: nn.Module, images: Images, seed: int) -> int:
    torch.manual_seed(seed_for(seed, "passes"))
    inputs = _shown(model, images)
    first, *others = (_answer(model, inputs) for _ in range(_PASSES))
    return int(torch.stack([_differ(first, other, _SAME) for other in others]).any(0).sum())


def _randomized(restless: int, shown: int, eot: int) -> str | None:
    if not restless:
        return None
    how = (
        f"attacks see the mean of its logits over {eot} forward passes"
        if eot > 1
        else "attacks see one forward pass at a time (evaluate.eot = 1), so robust accuracy is overstated"
    )
    return (
        f"the model is randomized: {restless} of {shown} images get other logits when they are shown again; {how}, and "
        "each prediction that counts is that of one pass"
    )


def _not_finite(evaluation: Evaluation) -> str | None:
    if not (count := evaluation.not_finite):
        return None
    return (
        f"{count} answers of the model have logits that are not finite (NaN or infinite): their class says nothing, "
        "and an attack cannot follow their gradient; no accuracy can be relied on"
    )


def _one_class(evaluation: Evaluation) -> str | None:
    counts = np.bincount(evaluation.predictions["natural"])
    number, most, n = int(counts.argmax()), int(counts.max()), evaluation.n
    share = float((evaluation.labels == number).mean())
    if most < _COLLAPSED * n or binomial_tail(most, n, share) >= _LEVEL:
        return None
    return (
        f"the model predicts the same class (number {number}, counted from 0) for {most} of {n} images: no attack can "
        "change what does not depend on the image; this is no robustness"
    )


def _batches(model: nn.Module, images: Images) -> str | None:
    """Compare one batch with small ones: batch normalization may refuse a batch of one image."""
    inputs = _shown(model, images)
    n = len(inputs)
    if n < 4:
        return None
    order = torch.from_numpy(np.random.default_rng(0).permutation(n)).to(inputs.device)
    alone = torch.empty_like(whole := _answer(model, inputs))
    alone[order] = torch.cat([_answer(model, inputs[rows]) for rows in order.tensor_split(n // 2)])
    differ = int(_differ(whole, alone, _ROUNDED).sum())
    if not differ:
        return None
    changed = int((whole.argmax(1) != alone.argmax(1)).sum())
    return (
        f"the answer depends on the other images of the batch: {differ} of {n} images get other logits in batches of "
        f"2, and {changed} another class; every accuracy holds for the batches of this evaluation alone"
    )


def _range(model: nn.Module, images: Images) -> str | None:
    outputs = _answer(model, _shown(model, images))
    if not (outputs.min() >= -1e-5 and outputs.max() <= 1 + 1e-5):
        return None
    sums = ((outputs.sum(1) - 1).abs() < 1e-5).all()
    what = "probabilities (they add up to 1)" if sums else "numbers between 0 and 1"
    return (
        f"the model returns {what} where attacks expect logits: the gradient of the cross-entropy is too small or "
        "points elsewhere, so fgsm and pgd are weak; remove the softmax or sigmoid at the end of the model"
    )


def _gradients_inside(model: nn.Module, images: Images) -> str | None:
    """Tell a forward pass that computes gradients itself: it keeps values for them where nobody else asks for any."""
    kept: list[torch.Size] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value.shape)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        _answer(model, _shown(model, images)[:2])
    if not kept:
        return None
    return (
        "the model computes gradients in its own forward pass, as defences do that change the image first: the "
        "attacks here are not made for that"
    )
