"""Collapse: the model says the same of nearly all images."""

from typing import ClassVar

from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Line, Lines, percent, signal

_MOST, _NEARLY = 0.95, 0.85
_FIRST = 3  # rounds in which a model that has just begun may do so


class Collapse:
    """One class is predicted for more than 95 % of the held-out images, and fewer of them have it."""

    name: ClassVar[str] = "collapse"
    images: ClassVar[bool] = True
    replies: ClassVar[bool] = False

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Look at the last round; see ``Trouble.judge``."""
        if len(lines) <= _FIRST or not says_one_class(lines[-1]):
            return None
        most = signal(lines[-1], "most-predicted")
        share = most["share"]
        return Found(
            SEVERE if share > _MOST else MILD,
            f"class {most['class']} (counted from 0) is predicted for {percent(share)} of the held-out images; "
            f"{percent(most['true-share'])} have it",
        )


def says_one_class(line: Line) -> bool:
    """Return whether one class is predicted for nearly all held-out images after a round, the first ones too."""
    most = signal(line, "most-predicted")
    return bool(most) and most["share"] > _NEARLY and most["share"] >= most["true-share"] + 0.1
