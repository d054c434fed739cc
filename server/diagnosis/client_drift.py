"""Client drift: what one client learns, the others undo."""

from itertools import pairwise
from statistics import fmean, median
from typing import ClassVar

from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Line, Lines, percent, signal, smooth

_WINDOW = 3
_APART = 0.05  # cosine of the median client with the others
_FORGOTTEN = 0.15  # of what each class had, in a round
_WORSE = 0.1  # fall of natural accuracy from its best mean
_LATE, _MOST, _BARELY = 8, 0.5, 2  # or: from this round on, half is forgotten, and accuracy is below twice chance


class ClientDrift:
    """Updates share no direction any more, and classes are forgotten from one round to the next.

    Karimireddy et al. 2020 (arXiv 1910.06378); forgetting in federations: Lee et al. 2022 (arXiv 2106.03097). Either
    alone is usual: clients of two classes agree little, and early rounds forget. With both, a model may still learn,
    but more slowly. Severe: it gets worse, or has hardly learned anything.
    """

    name: ClassVar[str] = "client-drift"
    images: ClassVar[bool] = True
    replies: ClassVar[bool] = True

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Look at the last three rounds; see ``Trouble.judge``."""
        judged = [line for line in lines if signal(line, "cosines") and signal(line, "class-natural")]
        if len(judged) <= _WINDOW:
            return None
        known = judged[-_WINDOW - 1 :]
        agreement = fmean(median(signal(line, "cosines").values()) for line in known[1:])
        lost = fmean(_forgotten(*pair) for pair in pairwise(known))
        if agreement > _APART or lost < _FORGOTTEN:
            return None
        natural = smooth([signal(line, "natural") for line in judged], _WINDOW)
        worse = max(natural) - natural[-1] >= _WORSE
        chance = 1 / len(signal(known[-1], "class-natural"))
        stuck = len(lines) >= _LATE and lost >= _MOST and natural[-1] < _BARELY * chance
        return Found(
            SEVERE if worse or stuck else MILD,
            f"the median client's update has a cosine of {agreement:.2f} with the others', and of the accuracy of each "
            f"class {percent(lost)} is forgotten in a {about.unit} (means over {_WINDOW}); the updates' dispersion is "
            f"{signal(known[-1], 'dispersion') or 0:.3g}; natural accuracy is {percent(natural[-1])}, "
            f"{percent(max(natural))} at its best",
        )


def _forgotten(before: Line, now: Line) -> float:
    """Return which part of the correct answers of each class is gone, over all classes, in [0, 1]."""
    had, has = signal(before, "class-natural"), signal(now, "class-natural")
    return float(sum(max(0, old - new) for old, new in zip(had, has, strict=True)) / max(1, sum(had)))
