"""Natural and robust accuracy, as per-example worst case, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.attacks import Threat, attack_mode, build_attack, parse_label
from common.seeding import seed_for
from common.training import pixels

_Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


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
        """The 95 % Wilson score interval (Wilson 1927): sampling of the test images only, not of training seeds."""
        p, n, z2 = self.value, self.n, _Z95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def as_json(self) -> dict[str, Any]:
        """Return the share and its interval for a results file."""
        return {"value": self.value, "interval": list(self.interval)}


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation measured on n examples.

    Attributes:
        natural: natural accuracy.
        robust: robust accuracy under each attack alone, by label (``fgsm``, ``pgd-10``).
        worst: robust accuracy under all of them: an example counts only when no attack breaks it.
    """

    natural: Rate
    robust: dict[str, Rate]
    worst: Rate

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.natural.n

    def values(self) -> dict[str, float]:
        """Return the accuracies alone, in [0, 1]."""
        robust = {label: rate.value for label, rate in self.robust.items()}
        return {"natural": self.natural.value, **robust, "worst": self.worst.value}

    def as_json(self) -> dict[str, Any]:
        """Return the figures for a results file."""
        return {
            "n": self.n,
            "natural": self.natural.as_json(),
            "robust": {label: rate.as_json() for label, rate in self.robust.items()},
            "worst": self.worst.as_json(),
        }

    def line(self) -> str:
        """One line for the log: percentages with their 95 % intervals."""
        rates = {"natural": self.natural, **self.robust}
        if len(self.robust) > 1:
            rates["worst case"] = self.worst
        return (
            "  ".join(
                f"{name} {100 * rate.value:.1f} % [{100 * rate.interval[0]:.1f}, {100 * rate.interval[1]:.1f}]"
                for name, rate in rates.items()
            )
            + f"  n = {self.n}"
        )


def evaluate(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    attacks: Sequence[str],
    threat: Threat,
    seed: int,
    batch_size: int = 500,
) -> Evaluation:
    """Measure ``model`` in eval mode and float32; every module keeps its mode.

    An adversary who cannot do better leaves the image as it is, so an attack is run only on the images that are
    classified correctly, and an example counts as robust when both versions are.

    Args:
        model: from pixels in [0, 1] to logits.
        images: uint8 [N,3,H,W], N >= 1.
        labels: int64 [N].
        attacks: labels as of ``parse_label``: ``fgsm``, ``pgd-20``.
        threat: epsilon and step size of all of them.
        seed: fixes the random starts.
        batch_size: images at a time; a repeated evaluation must use the same one.
    """
    device = next(model.parameters()).device
    natural = np.zeros(len(labels), dtype=bool)
    robust = {label: np.zeros(len(labels), dtype=bool) for label in attacks}
    built = {
        label: build_attack(name, model, limits) for label in attacks for name, limits in [parse_label(label, threat)]
    }
    with attack_mode(model):
        for start in range(0, len(labels), batch_size):
            rows = np.arange(start, min(start + batch_size, len(labels)))
            inputs, targets = pixels(images[rows], device), torch.from_numpy(labels[rows]).to(device)
            correct = _correct(model, inputs, targets)
            natural[rows] = correct.cpu().numpy()
            inputs, targets, rows = inputs[correct], targets[correct], rows[natural[rows]]
            if len(rows) == 0:
                continue
            for label, attack in built.items():
                torch.manual_seed(seed_for(seed, label, start))
                robust[label][rows] = _correct(model, attack(inputs, targets), targets).cpu().numpy()
    worst = np.logical_and.reduce([natural, *robust.values()])
    rates = {label: _rate(mask) for label, mask in robust.items()}
    return Evaluation(_rate(natural), rates, _rate(worst))


def _correct(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        correct: Tensor = model(inputs).argmax(1) == labels
    return correct


def _rate(mask: NDArray[np.bool_]) -> Rate:
    return Rate(int(mask.sum()), len(mask))
