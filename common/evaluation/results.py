"""What an evaluation found: rates with intervals, predictions example by example, distortions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from common.statistics import Mask, wilson_interval

_ROUGH = 1000

Shares = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A share of examples, with its 95 % interval.

    Attributes:
        correct: number of examples for which it holds.
        n: number of examples, >= 1.
    """

    correct: int
    n: int

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval: sampling of the test images only, not of training seeds."""
        return wilson_interval(self.correct, self.n)

    def as_json(self) -> dict[str, Any]:
        """Return the share and its interval for a results file."""
        return {"value": self.value, "interval": list(self.interval)}


@dataclass(frozen=True, eq=False)
class Distortion:
    """What an attack without a budget needed, on the examples that are classified correctly.

    Attributes:
        correct: bool [N], classified correctly before the attack.
        fooled: bool [N], misclassified after it; within ``correct``.
        l2: float32 [N], Euclidean length of the change, in the [0, 1] pixel range.
        linf: float32 [N], largest change of a pixel, same unit.
    """

    correct: Mask
    fooled: Mask
    l2: NDArray[np.float32]
    linf: NDArray[np.float32]

    @property
    def success(self) -> Rate | None:
        """How many of the correct examples it fools at any distortion; None when no example is correct."""
        return _rate(self.fooled[self.correct])

    def as_json(self) -> dict[str, Any]:
        """Return the figures for a results file; a distortion without a success is null."""
        any_fooled = bool(self.fooled.any())
        figures = {
            f"{statistic.__name__}-{name}": float(statistic(values[self.fooled])) if any_fooled else None
            for name, values in (("l2", self.l2), ("linf", self.linf))
            for statistic in (np.median, np.mean)
        }
        success = self.success
        return {"success": success and success.as_json(), **figures}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one evaluation measured on N examples.

    Attributes:
        labels: int64 [N], the true classes.
        predictions: ``natural`` and every attack within the budget, by label -> int16 [N]. An example that is wrong
            before the attack keeps that prediction; one that several restarts or parts attacked has that of the one
            that broke it.
        classes: number of classes.
        distortions: of the attacks without a budget, by label; they never enter the worst case.
        parts: examples that survive AutoAttack up to each of its parts; empty where it was not run.
        broken: bool [N], examples that attacks elsewhere have broken, which the worst case counts too; None for none.
        not_finite: of all answers of the model that were looked at, natural and attacked, how many have a logit that is
            NaN or infinite; the class of such an answer says nothing.
    """

    labels: NDArray[np.int64]
    predictions: dict[str, NDArray[np.int16]]
    classes: int
    distortions: dict[str, Distortion] = field(default_factory=dict)
    parts: dict[str, Rate] = field(default_factory=dict)
    broken: Mask | None = None
    not_finite: int = 0

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.labels)

    @property
    def caption(self) -> str:
        """How many images, for the title of a table."""
        rough = " (1,000 examples or fewer: a rough figure)" if self.n <= _ROUGH else ""
        return f"n = {self.n} test images{rough}"

    def masks(self) -> dict[str, Mask]:
        """Return which examples are correct: ``natural``, under each attack alone by label, ``worst`` under all.

        Without an attack there is no ``worst``: natural accuracy would pass for robust accuracy.
        """
        found: dict[str, Mask] = {label: predicted == self.labels for label, predicted in self.predictions.items()}
        if len(found) == 1:
            return found
        elsewhere = [] if self.broken is None else [~self.broken]
        return {**found, "worst": np.logical_and.reduce([*found.values(), *elsewhere])}

    @property
    def natural(self) -> Rate:
        """Natural accuracy."""
        return self._rates()["natural"]

    @property
    def robust(self) -> dict[str, Rate]:
        """Robust accuracy under each attack alone, by label (``fgsm``, ``pgd-10``)."""
        return {label: rate for label, rate in self._rates().items() if label not in ("natural", "worst")}

    @property
    def worst(self) -> Rate | None:
        """Robust accuracy under all attacks: an example counts when no attack breaks it. None without an attack."""
        return self._rates().get("worst")

    def _rates(self) -> dict[str, Rate]:
        return {label: Rate(int(mask.sum()), self.n) for label, mask in self.masks().items()}

    def per_class(self) -> dict[str, list[Rate | None]]:
        """Return the rates of each class alone, by label as in ``masks``; None for a class without an example."""
        own = [self.labels == number for number in range(self.classes)]
        return {label: [_rate(mask[rows]) for rows in own] for label, mask in self.masks().items()}

    def per_client(self, shares: Shares) -> dict[str, list[float | None]]:
        """Return accuracy on the test images of each client's classes, by label as in ``masks``.

        Each class weighs as much as in the client's own data, whatever its share of the test images; a class without an
        example is left out, and a client that has no other is None.

        Args:
            shares: [clients, classes], images or share of each class at each client.
        """
        found: dict[str, list[float | None]] = {}
        for label, rates in self.per_class().items():
            known = np.array([rate is not None for rate in rates])
            values = np.array([rate.value if rate else 0.0 for rate in rates])
            weights = shares * known
            sums = weights.sum(1)
            found[label] = [
                float(row @ values / total) if total else None for row, total in zip(weights, sums, strict=True)
            ]
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``labels`` int64 [N], and ``predictions`` int16 [A,N] in the order of the ``attacks``."""
        return {
            "labels": self.labels,
            "attacks": np.array(list(self.predictions)),
            "predictions": np.stack(list(self.predictions.values())),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], classes: int) -> Self:
        """Return what ``arrays`` was made of, without distortions and parts."""
        rows = zip(arrays["attacks"], arrays["predictions"], strict=True)
        return cls(arrays["labels"], {str(name): row for name, row in rows}, classes)

    def values(self) -> dict[str, float]:
        """Return the accuracies alone, in [0, 1]."""
        return {label: rate.value for label, rate in self._rates().items()}

    def as_json(self, details: bool = False, shares: Shares | None = None) -> dict[str, Any]:
        """Return the figures for a results file.

        Args:
            details: add the rates of each class.
            shares: add the rates of each client; see ``per_client``.
        """
        figures: dict[str, Any] = {
            "n": self.n,
            "natural": self.natural.as_json(),
            "robust": {label: rate.as_json() for label, rate in self.robust.items()},
            "worst": self.worst and self.worst.as_json(),
        }
        if self.distortions:
            figures["distortions"] = {label: found.as_json() for label, found in self.distortions.items()}
        if self.parts:
            figures["parts"] = {label: rate.as_json() for label, rate in self.parts.items()}
        if details:
            rates = self.per_class()
            figures["rough"] = self.n <= _ROUGH
            figures["class-examples"] = np.bincount(self.labels, minlength=self.classes).tolist()
            figures["per-class"] = {key: [rate and rate.as_json() for rate in each] for key, each in rates.items()}
        if shares is not None:
            figures["per-client"] = self.per_client(shares)
        return figures

    def line(self) -> str:
        """One line for the log: percentages with their 95 % intervals."""
        rates = self._rates()
        worst = rates.pop("worst", None)
        if worst and len(rates) > 2:
            rates["worst case"] = worst
        return "  ".join(f"{name} {percent(rate)}" for name, rate in rates.items()) + f"  n = {self.n}"


def percent(rate: Rate) -> str:
    """``54.2 % [51.1, 57.3]``."""
    low, high = rate.interval
    return f"{100 * rate.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _rate(mask: Mask) -> Rate | None:
    return Rate(int(mask.sum()), len(mask)) if len(mask) else None
