"""Figures, as PNG and SVG, from what a run directory holds; and what all figures have in common.

Several runs beside each other: ``python -m simulations.plots STEM TITLE=RUN_DIR ...``
"""

import io
import logging
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import TextWrapper, fill
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from common.errors import explain_os_errors
from common.files import replace_file
from common.links import refuse_links
from common.words import visible
from server.run_directory.reader import read_division, read_kind, read_metrics

# Okabe and Ito's palette, with a grey and a brown of our own that colour-blind readers can tell from the others too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#F0E442", "#56B4E9", "#595959", "#000000", "#7A3B1E")
PLAIN = 6  # areas in colours past these are hatched
LINE_COLOURS = tuple(colour for colour in COLOURS if colour != "#F0E442")  # nobody sees a yellow line on white
# As many as make 99 different lines with nine colours; who sees no colour has eleven.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
GREY = "#444444"
WIDTH = 7.2  # inches: text of 9 points is legible where a page shows the figure 700 pixels wide

# Letters that matplotlib's own font lacks are drawn with one of these, where it is installed.
_OTHER_FONTS = [
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAGothic", "Hiragino Sans", "PingFang SC", "Arial Unicode MS"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Bengali", "Noto Emoji", "Symbola"),
]
_MISSING = re.compile(r"Glyph (\d+) .*missing from")
_NAME = TextWrapper(20, max_lines=3, placeholder=" …")  # more would lie over what is drawn

log = logging.getLogger("fedshield")

mpl.rcParams.update(
    {
        "font.family": ["DejaVu Sans", *(font for font in _OTHER_FONTS if font in fontManager.get_font_names())],
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "text.parse_math": False,  # a class or a case may have any name, with dollars too
        "svg.fonttype": "none",  # text as text: small files, and a reader can search them
        "svg.hashsalt": "fedshield",  # without it every file has ids of its own, and never the same bytes twice
    }
)


def plot_run(run_dir: Path) -> None:
    """Draw a run's accuracy over rounds and its label distribution, if it has one, into ``figures/``."""
    folder = run_dir / "figures"
    plot_accuracy({run_dir.name: run_dir}, folder / "accuracy")
    if division := read_division(run_dir):
        plot_partition(division, folder / "partition")


def missing_figures(run_dir: Path) -> list[Path]:
    """Return what ``plot_run`` would draw and is not there."""
    stems = ["accuracy", *(["partition"] if (run_dir / "partition.json").exists() else [])]
    files = [file for stem in stems for file in _files(run_dir / "figures" / stem)]
    return [file for file in files if not file.exists()]


def plot_accuracy(runs: dict[str, Path], stem: Path) -> None:
    """Draw natural and robust accuracy over rounds, one panel for each run, with 95 % intervals of the test sample.

    Args:
        runs: title of the panel -> run directory.
        stem: path of the figures without their suffix.
    """
    save(accuracy_figure(runs), stem)


def accuracy_figure(runs: dict[str, Path]) -> Figure:
    """Return the figure that ``plot_accuracy`` saves."""
    width = WIDTH if len(runs) > 1 else 5.2
    figure, axes = plt.subplots(1, len(runs), figsize=(width, 3.4), sharey=True, squeeze=False, layout="constrained")
    tested: set[int] = set()
    for axis, (title, run_dir) in zip(axes[0], runs.items(), strict=True):
        records = [record for record in read_metrics(run_dir) if record["evaluation"]]
        if records:
            _draw_rates(axis, records)
            tested |= {record["evaluation"]["n"] for record in records}
        axis.set(title=fill(title, 44 // len(runs)), xlabel=read_kind(run_dir).unit, ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axis.grid()
    axes[0][0].set_ylabel("accuracy, %")
    axes[0][-1].legend()
    if tested:
        caption(figure, f"Bands: 95 % intervals of the test sample; {images(tested)}", round(120 * width / WIDTH))
    return figure


def caption(figure: Figure, text: str, letters: int = 120) -> None:
    """Say below the panels what is drawn, and from how much; on lines of so many letters."""
    figure.supxlabel(fill(text, letters), fontsize=7.5, color=GREY, x=0.01, ha="left")


def images(counts: Iterable[int]) -> str:
    """Say how many test images there were."""
    return f"n = {' or '.join(map(str, sorted(set(counts))))} test images"


def _draw_rates(axis: Axes, records: Sequence[dict[str, Any]]) -> None:
    rounds = [record["round"] for record in records]
    labels = ["natural", *records[0]["evaluation"]["robust"]]
    for label, colour, marker in zip(labels, cycle(LINE_COLOURS), cycle(MARKERS), strict=False):
        found = [record["evaluation"] for record in records]
        rates = [part["natural"] if label == "natural" else part["robust"][label] for part in found]
        lows, highs = zip(*(rate["interval"] for rate in rates), strict=True)
        axis.plot(
            rounds, [100 * rate["value"] for rate in rates], color=colour, marker=marker, ms=3.5, label=in_legend(label)
        )
        axis.fill_between(rounds, [100 * x for x in lows], [100 * x for x in highs], color=colour, alpha=0.15, lw=0)


def plot_partition(described: dict[str, Any], stem: Path) -> None:
    """Draw images per class of every client as stacked bars.

    Args:
        described: as in ``partition.json``.
        stem: path of the figures without their suffix.
    """
    save(partition_figure(described), stem)


def partition_figure(described: dict[str, Any]) -> Figure:
    """Return the figure that ``plot_partition`` saves."""
    clients = described["clients"]
    figure, axis = plt.subplots(figsize=(WIDTH, max(2.4, min(0.9 + 0.28 * len(clients), 9))), layout="constrained")
    draw_shares(axis, dict(zip(described["classes"], zip(*clients, strict=True), strict=True)))
    axis.set(xlabel="private training images", ylabel="client")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    return figure


def draw_shares(axis: Axes, counts: Mapping[str, Sequence[float]]) -> None:
    """Draw one horizontal bar for each client, with a part for each class: class -> its images at each client."""
    clients = len(next(iter(counts.values())))
    left = [0.0] * clients
    # Past ten classes the colours come again, with the next hatching.
    for number, (name, part) in enumerate(counts.items()):
        hatch = ("", "///", "...", "xxx")[(number + len(COLOURS) - PLAIN) // len(COLOURS) % 4]
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "edgecolor": "white", "lw": 0.4}
        axis.barh(range(clients), part, left=left, hatch=hatch, label=in_legend(name), **style)
        left = [before + count for before, count in zip(left, part, strict=True)]
    axis.set_yticks(range(clients) if clients <= 20 else range(0, clients, -(-clients // 10)))
    axis.margins(y=0.02)
    axis.locator_params(axis="x", nbins=5)
    axis.invert_yaxis()


def save_all(figures: Mapping[str, Figure], folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Save figures by name into a folder, and remove those of earlier times, which would show something else.

    Args:
        figures: name -> figure.
        folder: made where it is missing.
        patterns: of all names that the caller ever uses.

    Returns:
        The files, each figure's PNG before its SVG.
    """
    with explain_os_errors(folder):
        folder.mkdir(exist_ok=True)
    paths = [path for name, figure in figures.items() for path in save(figure, folder / name)]
    for pattern in patterns:
        for path in [*folder.glob(f"{pattern}.png"), *folder.glob(f"{pattern}.svg")]:
            if path not in paths:
                with explain_os_errors(path):
                    path.unlink()
    return paths


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG, the same bytes for the same figure, and close it; return the two paths."""
    _spell_out(figure)
    paths = _files(stem)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.filterwarnings("always", _MISSING.pattern)
            for path, unwanted in zip(paths, ("Software", "Date"), strict=True):
                content = io.BytesIO()
                figure.savefig(content, format=path.suffix[1:], dpi=150, metadata={unwanted: None})
                replace_file(path, content.getvalue())
    finally:
        plt.close(figure)
    _tell_missing(paths[0], [str(warning.message) for warning in told])
    return paths


def _tell_missing(path: Path, told: Sequence[str]) -> None:
    """Say in one line which letters no font here has; what else matplotlib warns of goes its way."""
    found = {message: _MISSING.match(message) for message in told}
    if letters := sorted({chr(int(match[1])) for match in found.values() if match}):
        log.info(
            "%s: no font has %s; drawn as boxes here, as letters in the SVG (fonts: fonts-noto-cjk, fonts-symbola)",
            *(path, "".join(letters[:20])),
        )
    for message in (message for message, match in found.items() if not match):
        warnings.warn(message, stacklevel=2)


def in_legend(name: str) -> str:
    """Return a name as a legend shows it: on a few short lines, and never left out, as matplotlib does with ``_x``."""
    shown = _NAME.fill(name)
    return f" {shown}" if shown.startswith("_") else shown


def _files(stem: Path) -> list[Path]:
    return [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]


def _spell_out(figure: Figure) -> None:
    """Make all letters of a figure visible: matplotlib would warn of an escape with that very escape."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        names = [text.get_text() for text in axis.get_ticklabels()]
        if (shown := [visible(name, "\n") for name in names]) != names:
            axis.set_ticklabels(shown)
    for text in figure.findobj(Text):
        text.set_text(visible(text.get_text(), "\n"))


def main() -> None:
    """Draw several runs beside each other; see ``simulations.plots``."""
    given = {title: Path(run_dir) for title, _, run_dir in (word.partition("=") for word in sys.argv[2:])}
    for path in given.values():
        refuse_links(path)
    plot_accuracy(given, Path(sys.argv[1]))
