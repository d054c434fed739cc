"""The accuracy of one evaluation as rows: gathered here once, and shown in several places with a few lines each.

Those are the terminal (``cli/tables``), the report (``html/evaluation_blocks``), the model card, ``compare`` and the
CSV files of a study. Nothing here imports torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

NO_ATTACK = "no attack was run: robust accuracy was not measured"

Record = Mapping[str, Any]


class Kind(Enum):
    """What a row was measured under."""

    NATURAL = "no attack"
    PART = "the parts of AutoAttack up to one of them"
    ATTACK = "one attack"
    WORST = "all attacks: an image counts if none of them breaks it"


@dataclass(frozen=True)
class Row:
    """Accuracy under one attack, or without one.

    Attributes:
        kind: what it was measured under.
        label: ``natural``, ``worst``, or the label of the attack or part.
        value: share of the test images, in [0, 1].
        interval: its 95 % interval, in [0, 1].
        per_class: the shares of each class alone; None for a class without an image, empty where nothing is known.
    """

    kind: Kind
    label: str
    value: float
    interval: tuple[float, float]
    per_class: tuple[float | None, ...] = ()

    @property
    def name(self) -> str:
        """What a table calls it; an attack of the user's own has the path of its file in its label."""
        short = self.label.rpartition("/")[2]
        return {Kind.PART: f"after {self.label}", Kind.WORST: "worst case"}.get(self.kind, short)

    @classmethod
    def of(cls, kind: Kind, label: str, rate: Record, per_class: Sequence[Record | None] = ()) -> Self:
        """Return the row of a rate as files have it: ``value`` and ``interval``."""
        low, high = rate["interval"]
        return cls(kind, label, rate["value"], (low, high), tuple(own["value"] if own else None for own in per_class))


@dataclass(frozen=True)
class AccuracyTable:
    """What an evaluation has measured.

    Attributes:
        n: test images.
        rows: natural accuracy, then the attacks in their order, AutoAttack's parts before it, then the worst case,
            where there was an attack; empty where nothing was measured.
        classes: in their order; empty where no class was looked at alone.
        class_images: test images of each class.
    """

    n: int
    rows: tuple[Row, ...]
    classes: tuple[str, ...] = ()
    class_images: tuple[int, ...] = ()

    @classmethod
    def of(cls, record: Record) -> Self:
        """Gather an evaluation as ``Evaluation.as_json`` writes it into files; an empty one gives an empty table."""
        if not record:
            return cls(0, ())
        per_class = record.get("per-class", {})
        unknown = [None] * len(record["classes"]) if per_class else []  # of an attack that somebody has added to a file
        rows = [Row.of(Kind.NATURAL, "natural", record["natural"], per_class.get("natural", unknown))]
        for label, rate in record["robust"].items():
            parts = record.get("parts", {}) if label == "autoattack" else {}
            rows += [Row.of(Kind.PART, part, left) for part, left in parts.items()]
            rows.append(Row.of(Kind.ATTACK, label, rate, per_class.get(label, unknown)))
        if record["robust"]:
            rows.append(Row.of(Kind.WORST, "worst", record["worst"], per_class.get("worst", unknown)))
        known = (record["classes"], record["class-examples"]) if per_class else ((), ())
        return cls(record["n"], tuple(rows), *map(tuple, known))

    @property
    def attacked(self) -> bool:
        """Whether an attack was run."""
        return any(row.kind is Kind.ATTACK for row in self.rows)

    def whole(self) -> dict[str, Row]:
        """Return the rows that are figures by themselves, by label: all but AutoAttack's parts."""
        return {row.label: row for row in self.rows if row.kind is not Kind.PART}

    def attacks(self) -> list[str]:
        """Return the labels of the attacks."""
        return [row.label for row in self.rows if row.kind is Kind.ATTACK]

    def by_class(self) -> list[tuple[str, int, list[float | None]]]:
        """Return each class with its images and its accuracy in each of the ``whole`` rows."""
        columns = [row.per_class for row in self.whole().values()]
        rows = zip(self.classes, self.class_images, *columns, strict=True)
        return [(name, count, own) for name, count, *own in rows]


def chance(record: Record, described: Record | None = None) -> float | None:
    """Return the accuracy of a model that always names the most frequent class of the test images, in [0, 1].

    Args:
        record: of an evaluation; its ``class-examples`` count where it has them.
        described: ``partition.json``, whose ``test`` counts otherwise: the images of an evaluation are drawn from the
            classes in turn.

    Returns:
        None where neither is known.
    """
    if counts := record.get("class-examples"):
        return float(max(counts) / sum(counts))
    tests, n = (described or {}).get("test"), record["n"]
    if not tests:
        return None
    most = next((most for most in range(1, max(tests)) if sum(min(count, most) for count in tests) >= n), max(tests))
    return float(most / n)


def say_chance(value: float) -> str:
    """``chance: 10.0 % (always the most frequent class)``."""
    return f"chance: {share(value)} % (always the most frequent class)"


def tell_chance(record: Record, described: Record | None = None) -> list[str]:
    """Return that line for an evaluation; nothing where chance is not known; see ``chance``."""
    value = chance(record, described) if record else None
    return [] if value is None else [say_chance(value)]


def share(value: float | None) -> str:
    """``54.2``, in per cent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def bracket(interval: Sequence[float]) -> str:
    """``[51.1, 57.3]``, in per cent."""
    low, high = interval
    return f"[{100 * low:.1f}, {100 * high:.1f}]"
