"""Figures, as PNG and SVG, from what a run directory holds.

Several runs beside each other: ``python -m simulations.plots STEM TITLE=RUN_DIR ...``
"""

import json
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.errors import explain_os_errors
from server.rundir import read_metrics

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#F0E442", "#000000", "#8A5A44")
_MARKERS = ("o", "s", "^", "D", "v")


def plot_run(run_dir: Path) -> None:
    """Draw a run's accuracy over rounds and its label distribution into ``figures/``."""
    folder = run_dir / "figures"
    with explain_os_errors(folder):
        folder.mkdir(exist_ok=True)
        plot_accuracy({run_dir.name: run_dir}, folder / "accuracy")
        plot_partition(json.loads((run_dir / "partition.json").read_text()), folder / "partition")


def plot_accuracy(runs: dict[str, Path], stem: Path) -> None:
    """Draw natural and robust accuracy over rounds, one panel for each run, with 95 % intervals of the test sample.

    Args:
        runs: title of the panel -> run directory.
        stem: path of the figures without their suffix.
    """
    figure, axes = plt.subplots(1, len(runs), figsize=(5.2 * len(runs), 3.6), sharey=True, squeeze=False)
    for axis, (title, run_dir) in zip(axes[0], runs.items(), strict=True):
        records = [record for record in read_metrics(run_dir) if record["evaluation"]]
        if records:
            _draw_rates(axis, records)
        axis.set(title=title, xlabel="round", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy, %")
    axes[0][-1].legend(frameon=False)
    _save(figure, stem)


def _draw_rates(axis: Axes, records: Sequence[dict[str, Any]]) -> None:
    rounds = [record["round"] for record in records]
    labels = ["natural", *records[0]["evaluation"]["robust"]]
    for label, colour, marker in zip(labels, cycle(COLOURS), cycle(_MARKERS), strict=False):
        found = [record["evaluation"] for record in records]
        rates = [part["natural"] if label == "natural" else part["robust"][label] for part in found]
        lows, highs = zip(*(rate["interval"] for rate in rates), strict=True)
        axis.plot(rounds, [100 * rate["value"] for rate in rates], color=colour, marker=marker, ms=3.5, label=label)
        axis.fill_between(rounds, [100 * x for x in lows], [100 * x for x in highs], color=colour, alpha=0.15, lw=0)


def plot_partition(described: dict[str, Any], stem: Path) -> None:
    """Draw images per class of every client as stacked bars.

    Args:
        described: as in ``partition.json``.
        stem: path of the figures without their suffix.
    """
    clients = described["clients"]
    figure, axis = plt.subplots(figsize=(7.2, 0.9 + 0.28 * len(clients)))
    left = [0] * len(clients)
    for label, name in enumerate(described["classes"]):
        counts = [client[label] for client in clients]
        colour = COLOURS[label % len(COLOURS)]
        axis.barh(range(len(clients)), counts, left=left, color=colour, edgecolor="white", lw=0.5, label=name)
        left = [before + count for before, count in zip(left, counts, strict=True)]
    axis.set(xlabel="private training images", ylabel="client", yticks=range(len(clients)))
    axis.invert_yaxis()
    axis.legend(frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left", fontsize="small")
    _save(figure, stem)


def _save(figure: Figure, stem: Path) -> None:
    for suffix in ("png", "svg"):
        figure.savefig(f"{stem}.{suffix}", dpi=150, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    plot_accuracy(
        {title: Path(run_dir) for title, _, run_dir in (given.partition("=") for given in sys.argv[2:])},
        Path(sys.argv[1]),
    )
