"""Collapse: the model says the same of nearly all images."""

from typing import ClassVar

from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Lines, percent, signal

_MOST, _NEARLY = 0.95, 0.85
_FIRST = 3  # rounds in which a model that has just begun may do so


class Collapse:
    """One class is predicted for more than 95 % of the held-out images, and fewer of them have it."""

    name: ClassVar[str] = "collapse"
    images: ClassVar[bool] = True
    replies: ClassVar[bool] = False

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Look at the last round; see ``Trouble.judge``."""
        most = signal(lines[-1], "most-predicted")
        if most is None or len(lines) <= _FIRST:
            return None
        share = most["share"]
        if share <= _NEARLY or share < most["true-share"] + 0.1:
            return None
        return Found(
            SEVERE if share > _MOST else MILD,
            f"class {most['class']} (counted from 0) is predicted for {percent(share)} of the held-out images; "
            f"{percent(most['true-share'])} have it",
        )
