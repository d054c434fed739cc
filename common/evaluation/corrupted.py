"""Accuracy and calibration of a model on corrupted images."""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.evaluation.confidence import Answers, answer, calibration_of
from common.evaluation.corruptions import SEVERITIES, corrupt
from common.evaluation.results import Rate
from common.evaluation.store import Arrays, ArrayStore
from common.seeding import seed_for
from common.statistics import mean_share

log = logging.getLogger("fedshield")

_BATCH = 100  # part of what decides the noise
_SILENCE = 30.0  # seconds after which a long evaluation logs its progress


@dataclass(frozen=True, eq=False)
class Corrupted:
    """What was found on N images.

    Attributes:
        labels: int64 [N], the true classes.
        answers: kind -> the answers at severity 1 to 5.
    """

    labels: NDArray[np.int64]
    answers: dict[str, list[Answers]]

    def as_json(self) -> dict[str, Any]:
        """Return the figures for a results file.

        Each kind has its accuracy and calibration error at each severity, and the mean over severities. The mean over
        all is the mean corruption accuracy. The intervals of both means are those of the sample of images: the versions
        of an image count as one observation.
        """
        cells = {kind: [self._cell(each) for each in answers] for kind, answers in self.answers.items()}
        kinds = {kind: {"severities": cells[kind], "mean": self._mean(own)} for kind, own in self.answers.items()}
        errors = [cell["ece"] for own in cells.values() for cell in own]
        ece = None if None in errors else fmean(errors)
        return {"kinds": kinds, "mean": self._mean(chain.from_iterable(self.answers.values())), "ece": ece}

    def _cell(self, answers: Answers) -> dict[str, Any]:
        right = answers.predictions == self.labels
        calibration = calibration_of(answers, self.labels)
        return {**Rate(int(right.sum()), len(right)).as_json(), "ece": calibration and calibration["ece"]}

    def _mean(self, answers: Iterable[Answers]) -> dict[str, Any]:
        right = np.stack([each.predictions == self.labels for each in answers])
        value, low, high = mean_share(right.mean(0))
        return {"value": value, "interval": [low, high]}


def evaluate_corrupted(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    kinds: Sequence[str],
    seed: int,
    kept: ArrayStore | None = None,
) -> Corrupted:
    """Show corrupted images to ``model``, in eval mode and float32, at each severity of each kind.

    Args:
        model: from pixels [B,3,H,W] in [0, 1] to logits [B,classes].
        images: uint8 [N,3,H,W], N >= 1.
        labels: int64 [N], their true classes.
        kinds: of ``corruptions.KINDS``, one or more.
        seed: of the corruptions, >= 0.
        kept: where to keep what is measured, and to look for it first. It must belong to exactly this model, data and
            seed.
    """
    found: dict[str, list[Answers]] = {kind: [] for kind in kinds}
    spoke = time.monotonic()
    for kind in kinds:
        for severity in SEVERITIES:
            found[kind].append(_answers(model, images, kind, severity, seed, kept))
            if time.monotonic() - spoke > _SILENCE:
                spoke = time.monotonic()
                log.info("evaluating: %s of severity %d, %d images", kind, severity, len(images))
    return Corrupted(labels, found)


def _answers(
    model: nn.Module, images: NDArray[np.uint8], kind: str, severity: int, seed: int, kept: ArrayStore | None
) -> Answers:
    name = f"{kind}-{severity}"
    if kept and (before := kept.load(name, fits=partial(_fits, len(images)))):
        return Answers(before["predictions"], before["confidences"])
    torch.manual_seed(seed_for(seed, "corrupted", kind, severity))  # of a randomized model
    parts = []
    for start in range(0, len(images), _BATCH):
        corrupted = corrupt(images[start : start + _BATCH], kind, severity, seed, start)
        parts.append(answer(model, corrupted, _BATCH))
    found = Answers(
        np.concatenate([part.predictions for part in parts]), np.concatenate([part.confidences for part in parts])
    )
    if kept:
        kept.save(name, {"predictions": found.predictions, "confidences": found.confidences})
    return found


def _fits(count: int, arrays: Arrays) -> bool:
    predictions, confidences = arrays["predictions"], arrays["confidences"]
    shapes = predictions.shape == confidences.shape == (count,)
    types = predictions.dtype == np.int16 and confidences.dtype == np.float32
    return bool(shapes and types and not ((confidences < 0) | (confidences > 1)).any())
