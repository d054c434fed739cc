"""A lost class: the model has given up on it, though it is good at the others."""

from statistics import median
from typing import ClassVar

from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Line, Lines, signal

_WINDOW = 4  # rounds in which it is so
_FIRST = 6
_FEWEST = 5  # images of a class that is judged
_ABOVE = 3  # how many times chance the others must reach
_RARE = 0.5  # of the median number of training images


class LostClass:
    """In four rounds, none, or no more than chance, of a class is classified correctly, while the others are.

    Severe: without any attack, none is. Mild: none is left under PGD-10 of a class that is rare in training.
    """

    name: ClassVar[str] = "lost-class"
    images: ClassVar[bool] = True
    replies: ClassVar[bool] = False

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Look at the last four rounds; see ``Trouble.judge``."""
        known = [line for line in lines if signal(line, "class-natural")][-_WINDOW:]
        if len(lines) < _FIRST or len(known) < _WINDOW:
            return None
        chance = 1 / len(signal(known[-1], "class-natural"))
        if all(signal(line, "natural") >= _ABOVE * chance for line in known) and (
            lost := _never(known, "class-natural")
        ):
            return Found(SEVERE, _told(lost, "none", "correctly without an attack", about, "natural", known[-1]))
        if not about.adversarial or any((signal(line, "pgd") or 0) < _ABOVE * chance for line in known):
            return None
        usual = median(about.by_class) if about.by_class else 0
        rare = [number for number in _never(known, "class-pgd") if about.by_class[number] < _RARE * usual]
        return Found(MILD, _told(rare, "none", "correctly under pgd-10", about, "pgd", known[-1])) if rare else None


def _never(known: Lines, key: str) -> list[int]:
    """Return the classes of which not one image was correct in any of these rounds."""
    examples = signal(known[-1], "class-examples")
    hits = [max(signal(line, key)[number] for line in known) for number in range(len(examples))]
    return [number for number, most in enumerate(hits) if most == 0 and examples[number] >= _FEWEST]


def _told(lost: list[int], most: str, how: str, about: About, key: str, line: Line) -> str:
    names = ", ".join(map(str, lost))
    images = f" ({', '.join(str(about.by_class[number]) for number in lost)} training images)" if about.by_class else ""
    return (
        f"class {names}{images}, counted from 0: {most} of its held-out images is classified {how} in {_WINDOW} "
        f"{about.unit}s; of all classes {100 * signal(line, key):.0f} % are"
    )
