"""Measures any network: natural and robust accuracy with intervals, and the reasons to doubt them."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.attacks.library import check_classes
from common.attacks.threat import LINF, AttackSpec, Norm, Threat, check_step, doubted_radius, given_steps, radius
from common.config.flat import default_config
from common.errors import FedShieldError
from common.evaluation.evaluate import BATCH
from common.evaluation.evaluate import evaluate as measure
from common.evaluation.model_checks import EOT, is_randomized
from common.evaluation.results import Evaluation, Rate
from common.evaluation.sanity_checks import find_warnings
from common.factory import prepare_torch
from common.seeding import seed_for
from common.words import near
from fedshield.given import reference_to
from fedshield.guest import at_work
from fedshield.images import to_dataset, to_labels, to_pixels
from fedshield.networks import check_network, explain_network
from simulations.cli.options import parse_attacks

if TYPE_CHECKING:
    import pandas as pd

Attacks = str | Callable[..., Any] | Sequence[str | Callable[..., Any]]
"""Labels, ``"fgsm,pgd-20x5"`` or a list of them; also functions as ``attack.name`` takes them, alone or among these."""


@dataclass(frozen=True, eq=False, repr=False)
class Measured:
    """What an evaluation found.

    Attributes:
        evaluation: the figures, example by example.
        warnings: reasons not to trust them, one sentence each; none is no proof.
        epsilon_255: radius of the attacks, in 1/255 of the pixel range.
        norm: ``linf`` or ``l2``.
        record: of a run's model, the line that was added to its ``evaluations.jsonl``.
    """

    evaluation: Evaluation
    warnings: tuple[str, ...]
    epsilon_255: float
    norm: str
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of test images."""
        return self.evaluation.n

    @property
    def natural_accuracy(self) -> float:
        """Share of the images that are classified correctly, in [0, 1]."""
        return self.evaluation.natural.value

    @property
    def robust_accuracy(self) -> float | None:
        """Share that stays correct under all attacks, in [0, 1]; None without an attack."""
        return None if self.evaluation.worst is None else self.evaluation.worst.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of ``robust_accuracy``: of the sampling of test images."""
        return None if self.evaluation.worst is None else self.evaluation.worst.interval

    @property
    def table(self) -> "pd.DataFrame":
        """A row for ``natural``, for each attack, and for ``all attacks`` together.

        ``accuracy`` is in [0, 1], ``low`` and ``high`` are the ends of its 95 % interval, ``correct`` counts images out
        of ``n``.
        """
        import pandas as pd

        rows = [(name, rate.value, *rate.interval, rate.correct, rate.n) for name, rate in self._rates().items()]
        columns = ["attack", "accuracy", "low", "high", "correct", "n"]
        return pd.DataFrame(rows, columns=columns).set_index("attack")

    @property
    def distortions(self) -> "pd.DataFrame":
        """A row for each attack without a budget: share that it fools, and how far it moves those, in [0, 1] pixels."""
        import pandas as pd

        rows = {name: found.as_json() for name, found in self.evaluation.distortions.items()}
        flat = {name: {**row, "success": (row["success"] or {}).get("value")} for name, row in rows.items()}
        return pd.DataFrame.from_dict(flat, orient="index").rename_axis("attack")

    def _rates(self) -> dict[str, Rate]:
        rates = {"natural": self.evaluation.natural, **self.evaluation.robust}
        return rates if self.evaluation.worst is None else {**rates, "all attacks": self.evaluation.worst}

    def __repr__(self) -> str:
        rates = self._rates()
        width = max(map(len, rates))
        lines = [f"{self.evaluation.caption}, epsilon {radius(self.epsilon_255, self.norm)}"]
        for name, rate in rates.items():
            low, high = rate.interval
            lines.append(f"{name:<{width}}  {100 * rate.value:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
        lines += [f"{name}: an attack without a budget, see .distortions" for name in self.evaluation.distortions]
        return "\n".join([*lines, *(f"warning: {sentence}" for sentence in self.warnings)])


def evaluate(
    model: nn.Module,
    images: Any,
    labels: Any = None,
    attacks: Attacks = "pgd-20x5,autoattack",
    epsilon_255: float = 8,
    *,
    norm: Norm = LINF,
    step_255: float | None = None,
    seed: int = 1,
    eot: int = 0,
    batch_size: int = BATCH,
    quiet: bool = False,
    **unknown: Any,
) -> Measured:
    """Measure any network: natural accuracy, robust accuracy under each attack and under all, with 95 % intervals.

    The network is measured in eval mode, where it is, with as many threads as torch has; afterwards its modes and
    gradients are as before. The same checks as of a run's model give the warnings.

    Args:
        model: from pixels [B,3,H,W] in [0, 1] to logits; it normalizes by itself.
        images: as in ``to_pixels``: [N,3,H,W] or [N,H,W,3], integers from 0 to 255 or floats from 0 to 1; or a dataset
            of torch, if there are no ``labels``.
        labels: whole numbers [N], from 0.
        attacks: labels such as ``"fgsm,pgd-20x5,autoattack,deepfool"``, or a list of labels and functions.
        epsilon_255: radius of the attacks, in 1/255 of the pixel range; 0 measures natural accuracy.
        norm: ``linf`` or ``l2``.
        step_255: step size of BIM, PGD and CW, in 1/255; None for the default of ``evaluate.step-255``, which is
            made for Linf.
        seed: of the random starts, 0 or more; a run's is that of its configuration.
        eot: forward passes that an attack averages for a randomized network, 1 or more; 0 finds out whether it is one.
        batch_size: images at a time, 1 or more; with another one, random starts differ.
        quiet: show only warnings.
        unknown: refused, with near ones of the above.

    Raises:
        FedShieldError: the images, labels or attacks are not what they should be, or do not fit the network.
    """
    if unknown:
        word, known = next(iter(unknown)), [*inspect.signature(evaluate).parameters][:-1]
        raise FedShieldError(f"evaluate: unknown argument {word}{near(word, known)}")
    with at_work(quiet):
        if labels is None:
            data = to_dataset(images, "images")
            pixels, found = data.images, data.labels
        else:
            pixels = to_pixels(images)
            found = to_labels(labels, len(pixels))
        names = labels_of(attacks)
        _check_numbers(seed=(seed, 0), eot=(eot, 0), batch_size=(batch_size, 1))
        threat = _threat(epsilon_255, step_255, norm)
        doubts = _doubts(names, threat)
        prepare_torch(torch.get_num_threads())
        _check(model, pixels, found, names)
        own = seed_for(seed, "evaluate")
        with explain_network(model, "cannot be measured"):
            passes = eot or (EOT if is_randomized(model, pixels, own) else 1)
            figures = measure(model, pixels, found, names, threat, own, batch_size, eot=passes)
            warnings = find_warnings(model, pixels, found, figures, threat, own, passes)
        warnings = (*doubts, *warnings)
    return Measured(figures, warnings, float(epsilon_255), norm)


def labels_of(attacks: Attacks) -> tuple[str, ...]:
    """Return the labels of attacks; a function becomes ``FILE.py:NAME``.

    Raises:
        FedShieldError: one is not known.
    """
    if isinstance(attacks, str):
        return parse_attacks("attacks", attacks)
    several = [attacks] if callable(attacks) else attacks
    if not isinstance(several, Iterable):
        raise FedShieldError(f"attacks = {attacks!r:.80}: give labels, as in 'fgsm,pgd-20x5', or a list of them")
    return parse_attacks("attacks", ",".join(reference_to("attacks", each) for each in several))


def _check_numbers(**given: tuple[Any, int]) -> None:
    """Check whole numbers: each with the least that it may be."""
    for name, (value, least) in given.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise FedShieldError(f"{name} = {value!r}: give a whole number of {least} or more")


def _threat(epsilon_255: float, step_255: float | None, norm: str) -> Threat:
    if norm not in ("linf", "l2"):
        raise FedShieldError(f"norm = {norm!r}: unknown; allowed: linf, l2")
    step = float(default_config()["evaluate.step-255"]) if step_255 is None else step_255
    real = all(isinstance(each, Real) and not isinstance(each, bool) for each in (epsilon_255, step))
    numbers = real and isfinite(step)
    if not (numbers and 0 <= epsilon_255 <= (255 if norm == LINF else 100_000) and step > 0):
        raise FedShieldError(
            f"epsilon_255 = {epsilon_255!r}, step_255 = {step!r}: give numbers in 1/255 of the pixel range, as in "
            "epsilon_255=8"
        )
    return Threat.from_255(epsilon_255, step, norm=norm)  # type: ignore[arg-type]


def _doubts(attacks: Sequence[str], threat: Threat) -> list[str]:
    """Return what is most likely in another unit."""
    epsilon, step = 255 * threat.epsilon, 255 * threat.step
    of_step = check_step("step_255", step, given_steps(attacks), epsilon, threat.norm)
    return [doubt for doubt in (doubted_radius("epsilon_255", epsilon, threat.norm), of_step) if doubt]


def _check(model: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64], attacks: Sequence[str]) -> None:
    """Check that images, labels and attacks fit the network."""
    classes = check_network(model, images)
    if labels.max() >= classes:
        raise FedShieldError(f"labels: {labels.max()} is among them, but the model has {classes} classes")
    check_classes([label for label in attacks if AttackSpec.parse(label).family.classes > 1], classes)
