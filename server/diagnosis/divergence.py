"""Divergence: loss or updates leave the band in which they were."""

import math
from collections.abc import Sequence
from statistics import median
from typing import ClassVar

from common.words import in_one_line
from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Lines

_LONGER, _FAR = 4, 10  # times the median of the updates of the rounds before, each over its learning rate
_HIGHER, _HIGH = 1.5, 2.5  # times the lowest loss so far
_SMALL = 0.1  # of the first loss: what a loss near zero is taken for
_BEFORE = 3  # rounds that make a band


class Divergence:
    """The loss is no number or rises far above its lowest, updates get far longer, or too few replies are valid.

    The length of an update is divided by the learning rate of its round, so that a schedule is no alarm.
    """

    name: ClassVar[str] = "divergence"
    images: ClassVar[bool] = False
    replies: ClassVar[bool] = False

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Compare the last round with those before; see ``Trouble.judge``."""
        if failed := lines[-1].get("failed"):
            return Found(SEVERE, in_one_line(str(failed)))  # it has the reason of each client
        loss = lines[-1].get("loss")
        if loss is not None and not math.isfinite(loss):
            return Found(SEVERE, f"the training loss is {loss}")
        return self._length(lines, about) or self._loss(lines, about)

    def _length(self, lines: Lines, about: About) -> Found | None:
        known = [line for line in lines if line.get("update-norm")]
        if len(known) <= _BEFORE or known[-1] is not lines[-1]:
            return None
        *before, now = [line["update-norm"] / about.rate(line["round"]) for line in known]
        times = now / median(before)
        if not times > _LONGER:
            return None
        return Found(
            SEVERE if times > _FAR else MILD,
            f"the median update, over its learning rate, is {times:.3g} times as long as in the {about.unit}s before",
        )

    def _loss(self, lines: Lines, about: About) -> Found | None:
        losses = [line["loss"] for line in lines if line.get("loss") is not None and math.isfinite(line["loss"])]
        if len(losses) <= _BEFORE or (lowest := lowest_loss(losses)) <= 0:
            return None
        rise = min(losses[-2:]) / lowest  # of two rounds: one may be an accident
        if rise < _HIGHER:
            return None
        return Found(
            SEVERE if rise >= _HIGH else MILD,
            f"the training loss is {losses[-1]:.3g}, after {min(losses):.3g} at its lowest",
        )


def lowest_loss(losses: Sequence[float]) -> float:
    """Return the lowest of a run's losses, by which others are judged; at least a tenth of the first.

    A network that knows its images by heart has a loss near zero, which triples and falls again without any harm.

    >>> lowest_loss([2.0, 0.5, 0.01]), lowest_loss([2.0, 0.5])
    (0.2, 0.5)
    """
    return max(min(losses), _SMALL * losses[0])
