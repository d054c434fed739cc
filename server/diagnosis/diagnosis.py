"""What a trouble, a diagnosis and a run are to one another; a trouble judges lines of ``metrics.jsonl`` alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal, Protocol, Self

Line = Mapping[str, Any]
"""A line of ``metrics.jsonl``, read or about to be written."""

Lines = Sequence[Line]
Severity = Literal["mild", "severe"]
MILD: Severity = "mild"
SEVERE: Severity = "severe"


@dataclass(frozen=True)
class About:
    """What else must be known of a run to judge its lines.

    Attributes:
        rates: learning rate of each round, from the first.
        adversarial: whether at least half of the clients train adversarially.
        training: label of the training attack, as in ``pgd-3``; empty where it cannot be measured.
        by_class: training images of each class; empty where nobody knows.
        unit: ``round``, or ``epoch`` where there are no clients.
    """

    rates: Sequence[float]
    adversarial: bool
    training: str = ""
    by_class: Sequence[int] = ()
    unit: str = "round"

    def rate(self, number: int) -> float:
        """Return the learning rate of a round; after the last, that of the last."""
        return self.rates[min(number, len(self.rates)) - 1] if self.rates else 1.0


@dataclass(frozen=True)
class Found:
    """What a trouble sees in the latest of some lines.

    Attributes:
        severity: ``severe`` where the run is worth stopping or repairing.
        evidence: a sentence with the numbers.
        clients: numbers of those that it names, increasing.
    """

    severity: Severity
    evidence: str
    clients: tuple[int, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """A trouble that a run has.

    Attributes:
        name: of the trouble.
        severity: the highest since it began.
        evidence: a sentence with the numbers, of the last round in which it was seen.
        since: the round in which it began.
        clean: rounds since it was last seen; it ends when there are two.
        clients: numbers of those that it names.
    """

    name: str
    severity: Severity
    evidence: str
    since: int
    clean: int = 0
    clients: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what goes into ``metrics.jsonl``."""
        named = {"clients": list(self.clients)} if self.clients else {}
        return {
            "name": self.name,
            "severity": self.severity,
            "evidence": self.evidence,
            "since-round": self.since,
            "clean-rounds": self.clean,
            **named,
        }

    @classmethod
    def from_json(cls, stored: Line) -> Self:
        """Read what ``as_json`` has written."""
        since, clean, clients = stored["since-round"], stored["clean-rounds"], tuple(stored.get("clients", ()))
        return cls(stored["name"], stored["severity"], stored["evidence"], since, clean, clients)


class Trouble(Protocol):
    """Something that goes wrong, and how it is seen.

    Attributes:
        name: in files, log and reports.
        images: whether it is judged on held-out images.
        replies: whether it is judged by clients' replies.
    """

    name: ClassVar[str]
    images: ClassVar[bool]
    replies: ClassVar[bool]

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Return what it sees in the last of the lines; None for nothing.

        Args:
            lines: of rounds in their order, one or more.
            about: the run.
        """
        ...


def signal(line: Line, name: str) -> Any:
    """Return a signal of a round; None where it was not measured."""
    return line.get("signals", {}).get(name)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Return the means over ``window`` values in succession.

    >>> smooth([1.0, 2.0, 6.0, 4.0], 3)
    [3.0, 4.0]
    """
    return [fmean(values[end - window : end]) for end in range(window, len(values) + 1)]


def percent(share: float) -> str:
    """Write a share for a sentence.

    >>> percent(0.384)
    '38 %'
    """
    return f"{100 * share:.0f} %"
