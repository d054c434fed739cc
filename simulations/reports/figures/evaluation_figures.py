"""Figures of an evaluation: robust accuracy over epsilon, who is taken for whom under attack, adversarial images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.errors import FedShieldError
from common.evaluation.results import Evaluation
from server.run_directory.reader import read_evaluations, read_kind, read_predictions
from simulations.reports.figures.panels import headline
from simulations.reports.figures.run_figures import COLOURS, GREY, WIDTH, caption, save_all

Arrays = Mapping[str, NDArray[Any]]

_FACTORS = (1, 2, 5, 10, 20, 50, 100, 200)
_MOST_NUMBERS = 15  # more classes than that leave no room for numbers in the cells


def plot_evaluation(run_dir: Path) -> list[Path]:
    """Draw a run's last evaluation into its ``figures/``, in the place of an earlier one.

    ``confusion``: under the last of the attacks; ``examples``: images, what the attack adds, and both predictions;
    ``epsilon``: robust accuracy over epsilon, if the last ``fedshield evaluate`` was asked for it.

    Args:
        run_dir: with ``evaluations.jsonl``, and the predictions that its last line names.

    Returns:
        The files, each figure's PNG before its SVG.

    Raises:
        FedShieldError: there is no evaluation.
    """
    return save_all(evaluation_figures(run_dir), run_dir / "figures", ("confusion", "examples", "epsilon"))


def evaluation_figures(run_dir: Path) -> dict[str, Figure]:
    """Return the figures that ``plot_evaluation`` saves, by name."""
    record: Mapping[str, Any] = next(reversed(read_evaluations(run_dir)), {})
    if not (arrays := read_predictions(run_dir, record)):
        raise FedShieldError(f"{run_dir}: no evaluation to draw; run: fedshield evaluate {run_dir}")
    figures = {"confusion": _draw_confusion(arrays, run_dir.name)}
    if len(arrays["example_images"]):
        figures["examples"] = draw_examples(arrays, run_dir.name)
    if record.get("curve"):
        figures["epsilon"] = _draw_curve(record, run_dir.name, read_kind(run_dir).unit)
    return figures


def _draw_curve(record: Mapping[str, Any], title: str, unit: str) -> Figure:
    """Draw robust accuracy at each epsilon, with the 95 % interval of the test sample; ``unit``: round or epoch."""
    points = sorted(record["curve"], key=lambda point: float(point["epsilon-255"]))
    epsilons = [point["epsilon-255"] for point in points]
    rates = np.array([100 * point["value"] for point in points])
    lows, highs = 100 * np.array([point["interval"] for point in points]).T
    figure, axis = plt.subplots(figsize=(5.4, 3.5), layout="constrained")
    spread = [np.maximum(rates - lows, 0), np.maximum(highs - rates, 0)]
    axis.errorbar(epsilons, rates, spread, color=COLOURS[0], marker="o", ms=4, lw=1.4, elinewidth=1, capsize=3)
    own = record["epsilon-255"]
    if 0 < own <= epsilons[-1]:
        axis.axvline(own, color=GREY, lw=0.8, ls="--", zorder=1)
        axis.annotate(f"{own:g}/255, of this run", (own, 0.99), (3, 0), xycoords=axis.get_xaxis_transform(),
                      textcoords="offset points", va="top", fontsize=8, color=GREY)  # fmt: skip
    if "classes" in record:
        chance = 100 / len(record["classes"])
        axis.axhline(chance, color=GREY, lw=0.8, ls=":", zorder=1)
        axis.annotate("chance", (0.01, chance), (0, 2), xycoords=axis.get_yaxis_transform(),
                      textcoords="offset points", fontsize=8, color=GREY)  # fmt: skip
    axis.set(xlabel="epsilon, 1/255 of the pixel range (Linf)", ylabel="robust accuracy, %", ylim=(0, None))
    axis.grid()
    attack = points[0].get("attack", "PGD")
    headline(figure, f"{title}: accuracy under {attack}, after {unit} {record['round']}", 64)
    caption(figure, f"Bars: 95 % intervals of the test sample; n = {record['n']} test images")
    return figure


def _draw_confusion(arrays: Arrays, title: str) -> Figure:
    """Draw what the images of each class are taken for, in per cent of them, under the last of the attacks."""
    classes = [cut(str(name), 24) for name in arrays["classes"]]
    attack, counts = confusion(arrays)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(WIDTH, 2.2 + 0.46 * len(classes))
    figure, axis = plt.subplots(figsize=(max(side, 4.5), max(side, 4.5)), layout="constrained")
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="none")
    if len(classes) <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if counts[row, column]:
                axis.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if share > 55 else "black")  # fmt: skip
    every = -(-len(classes) // 40)
    ticks = range(0, len(classes), every)
    axis.set_xticks(ticks, classes[::every], rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(ticks, classes[::every])
    axis.spines[:].set_visible(False)
    axis.set(xlabel="predicted", ylabel="true class")
    when = "without attack" if attack == "natural" else f"under {attack}"
    headline(figure, f"{title}: predictions {when}", 80)
    right = counts.trace()
    caption(figure, f"Per cent of each class; {right} of n = {counts.sum()} test images are classified correctly", 90)
    return figure


def confusion(arrays: Arrays) -> tuple[str, NDArray[np.int64]]:
    """Count what images are taken for under the last attack, as the examples are; ``natural`` without an attack.

    Args:
        arrays: of an evaluation, as ``server.evaluation`` keeps them.

    Returns:
        The attack, and [C,C]: images of each class, and what they are taken for.
    """
    found = Evaluation.from_arrays(arrays, len(arrays["classes"]))
    attack = next(reversed(found.robust), "natural")
    counts = np.zeros((found.classes, found.classes), np.int64)
    np.add.at(counts, (found.labels, found.predictions[attack]), 1)
    return attack, counts


def draw_examples(arrays: Arrays, title: str) -> Figure:
    """Draw images, what the attack adds (magnified, around grey) and the adversarial images, with both predictions."""
    images = arrays["example_images"].astype(np.float64) / 255
    adversarial = arrays["example_adversarial"].astype(np.float64)
    names = [str(name) for name in arrays["classes"]]
    added, factor, largest = magnified(images, adversarial)
    count = len(images)
    width = min(WIDTH, max(3.6, 1.2 + 0.8 * count))
    figure, axes = plt.subplots(3, count, figsize=(width, 3.6), squeeze=False, layout="constrained")
    shown = images, added, adversarial.clip(0, 1)
    for line, (row, pictures) in enumerate(zip(axes, shown, strict=True)):
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture.transpose(1, 2, 0), interpolation="none")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(("image", f"added, ×{factor}", "adversarial")[line])
    _say(
        axes[0],
        [names[label] for label in arrays["example_natural"]],
        arrays["example_natural"] == arrays["example_labels"],
    )
    _say(
        axes[2],
        [names[label] for label in arrays["example_attacked"]],
        arrays["example_attacked"] == arrays["example_labels"],
    )
    headline(
        figure, f"{title}: images under {arrays['example_attack']}, and what the model takes them for", int(10 * width)
    )
    caption(
        figure,
        f"✓, ✗: the prediction is right, wrong. Added: at most {largest:.3g}/255 a pixel, "
        f"shown {factor} times as large, around grey",
        int(16 * width),
    )
    return figure


def magnified(images: NDArray[Any], adversarial: NDArray[Any]) -> tuple[NDArray[Any], int, float]:
    """Return what an attack adds, as pictures around grey, how many times as large it is shown, and its largest change.

    Args:
        images: float [K,3,H,W] in [0, 1].
        adversarial: the same under attack.

    Returns:
        The pictures [K,3,H,W] in [0, 1], the factor, and the change in 1/255.
    """
    added = adversarial - images
    largest = float(np.abs(added).max())
    factor = max(known for known in _FACTORS if known == 1 or known * largest <= 0.5)
    return (0.5 + factor * added).clip(0, 1), factor, 255 * largest


def cut(name: str, letters: int) -> str:
    """Return a name of so many letters at most."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _say(axes: Sequence[Axes], names: Sequence[str], right: Sequence[bool]) -> None:
    """Write a prediction below each image."""
    for axis, name, good in zip(axes, names, right, strict=True):
        axis.set_xlabel(
            f"{'✓' if good else '✗'} {cut(name, 12)}",
            fontsize=7.5,
            color=COLOURS[2] if good else COLOURS[1],
        )
