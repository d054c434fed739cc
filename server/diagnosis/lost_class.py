"""A lost class: the model has given up on it, though it is good at the others."""

from statistics import median
from typing import ClassVar

from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Line, Lines, percent, signal

_WINDOW, _LONG = 4, 6  # rounds in which it is so: for a mild, for a severe diagnosis
_FIRST = 8  # rounds in which a model that has just begun may do so
FEWEST = 5  # images of a class that is judged
_ABOVE = 3  # how many times chance the model must reach,
_OF_OTHERS = 0.8  # or, with few classes, what part of the images of all classes but one


class LostClass:
    """In four rounds, not one held-out image of a class is classified correctly, while those of others are.

    Severe: it lasts for six rounds. Mild, too: none is left under PGD-10 of a class that is rare in training.
    """

    name: ClassVar[str] = "lost-class"
    images: ClassVar[bool] = True
    replies: ClassVar[bool] = False

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Look at the last four rounds; see ``Trouble.judge``."""
        known = [line for line in lines if signal(line, "class-natural")][-_LONG:]
        if len(lines) < _FIRST or len(known) < _WINDOW:
            return None
        last = known[-_WINDOW:]
        chance = 1 / len(signal(last[-1], "class-natural"))
        good = min(_ABOVE * chance, _OF_OTHERS * (1 - chance))
        if all(signal(line, "natural") >= good for line in last) and (lost := _never(last, "class-natural")):
            gone = _never(known, "class-natural") if len(known) == _LONG else []
            told = _told(gone or lost, "without an attack", len(known) if gone else _WINDOW, about, last[-1])
            return Found(SEVERE if gone else MILD, told)
        if not about.adversarial or any((signal(line, "pgd") or 0) < good for line in last):
            return None
        usual = median(about.by_class) if about.by_class else 0
        rare = [number for number in _never(last, "class-pgd") if about.by_class and about.by_class[number] < usual / 2]
        return Found(MILD, _told(rare, "under pgd-10", _WINDOW, about, last[-1])) if rare else None


def _never(known: Lines, key: str) -> list[int]:
    """Return the classes of which not one image was correct in any of these rounds."""
    examples = signal(known[-1], "class-examples")
    hits = [max(signal(line, key)[number] for line in known) for number in range(len(examples))]
    return [number for number, most in enumerate(hits) if most == 0 and examples[number] >= FEWEST]


def _told(classes: list[int], how: str, rounds: int, about: About, line: Line) -> str:
    images = [f" ({about.by_class[number]} training images)" if about.by_class else "" for number in classes]
    names = ", ".join(f"{number}{told}" for number, told in zip(classes, images, strict=True))
    return (
        f"class {names}, counted from 0: none of its held-out images is classified correctly {how} in {rounds} "
        f"{about.unit}s; without an attack {percent(signal(line, 'natural'))} of all images are"
    )
