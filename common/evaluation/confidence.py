"""How sure a model is of its answers, and whether it is right as often as that: calibration."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.attacks.library import attack_mode
from common.training.trainer import pixels

BINS = 15


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of N images.

    Attributes:
        predictions: int16 [N], the likeliest classes.
        confidences: float32 [N], their probabilities by softmax, in [0, 1]; not a number where the logits have none.
    """

    predictions: NDArray[np.int16]
    confidences: NDArray[np.float32]


def answer(model: nn.Module, images: NDArray[np.uint8], batch_size: int) -> Answers:
    """Show images to a model in eval mode; every module keeps its mode.

    Args:
        model: from pixels [B,3,H,W] in [0, 1] to logits [B,classes].
        images: uint8 [N,3,H,W], N >= 1.
        batch_size: images at a time, >= 1.
    """
    device, found = next(model.parameters()).device, []
    with torch.no_grad(), attack_mode(model):
        for start in range(0, len(images), batch_size):
            logits = model(pixels(images[start : start + batch_size], device))
            found.append((logits.argmax(1).cpu().numpy(), logits.softmax(1).amax(1).clamp(max=1).cpu().numpy()))
    predictions, confidences = (np.concatenate(each) for each in zip(*found, strict=True))
    return Answers(predictions.astype(np.int16), confidences.astype(np.float32))


def calibration_of(answers: Answers, labels: NDArray[np.int64]) -> dict[str, Any] | None:
    """Return the figures for a results file: ``ece``, and the mean ``confidence``; None if logits are no numbers.

    Args:
        answers: for N images.
        labels: int64 [N], their true classes.
    """
    if not np.isfinite(answers.confidences).all():
        return None
    ece = calibration_error(answers.confidences, answers.predictions == labels)
    return {"ece": ece, "confidence": float(answers.confidences.mean(dtype=np.float64))}


def calibration_error(confidences: NDArray[np.float32], correct: NDArray[np.bool_]) -> float:
    """Return the expected calibration error with 15 equal bins (Guo et al. 2017, arXiv 1706.04599, equation 3).

    Bin m holds the confidences in ((m - 1) / 15, m / 15]. Its gap is the distance between its mean confidence and its
    accuracy; the error is the mean of all gaps, each weighted by the images in its bin.

    >>> round(calibration_error(np.array([0.95, 0.95, 0.62, 0.62], np.float32), np.array([True, True, True, False])), 3)
    0.085

    Args:
        confidences: float32 [N], in [0, 1], N >= 1.
        correct: bool [N], whether the predictions are right.
    """
    sure = confidences.astype(np.float64)
    place = np.ceil(sure * BINS).clip(1, BINS).astype(np.int64)
    gaps = np.bincount(place, sure - correct)  # images times gap, by bin
    return float(np.abs(gaps).sum() / len(correct))
