"""Client drift: what one client learns, the others undo."""

from itertools import pairwise
from statistics import fmean, median
from typing import ClassVar

from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Line, Lines, percent, signal

_WINDOW = 3
_APART, _AGAINST = 0.05, -0.05  # cosine of the median client with the others
_FORGOTTEN, _MUCH = 0.15, 0.25  # of what each class had, in a round


class ClientDrift:
    """Updates share no direction any more, and classes are forgotten from one round to the next.

    Karimireddy et al. 2020 (arXiv 1910.06378); forgetting in federations: Lee et al. 2022 (arXiv 2106.03097). Either
    alone is usual: clients of two classes agree little, and early rounds forget. Severe: both are strong.
    """

    name: ClassVar[str] = "client-drift"
    images: ClassVar[bool] = True
    replies: ClassVar[bool] = True

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Look at the last three rounds; see ``Trouble.judge``."""
        known = [line for line in lines if signal(line, "cosines") and signal(line, "class-natural")][-_WINDOW - 1 :]
        if len(known) <= _WINDOW:
            return None
        agreement = fmean(median(signal(line, "cosines").values()) for line in known[1:])
        lost = fmean(_forgotten(*pair) for pair in pairwise(known))
        if agreement > _APART or lost < _FORGOTTEN:
            return None
        return Found(
            SEVERE if agreement <= _AGAINST and lost >= _MUCH else MILD,
            f"the median client's update has a cosine of {agreement:.2f} with the others', and of the accuracy of each "
            f"class {percent(lost)} is forgotten in a {about.unit} (means over {_WINDOW}); the updates' dispersion is "
            f"{signal(known[-1], 'dispersion') or 0:.3g}",
        )


def _forgotten(before: Line, now: Line) -> float:
    """Return which part of the correct answers of each class is gone, over all classes, in [0, 1]."""
    had, has = signal(before, "class-natural"), signal(now, "class-natural")
    return float(sum(max(0, old - new) for old, new in zip(had, has, strict=True)) / max(1, sum(had)))
