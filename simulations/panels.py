"""What the figures of studies are made of: panels beside each other, lines with bands, legends, captions."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TypedDict

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulations.plots import LINE_COLOURS, MARKERS, WIDTH

GREY = "#444444"


class Style(TypedDict):
    """How a line is drawn."""

    color: str
    marker: str
    ls: str


def styles(count: int, ordered: bool = False) -> list[Style]:
    """Return styles that differ in colour and in marker, for readers who see no colours too.

    Args:
        count: how many.
        ordered: of dark to light, for lines that stand for rising numbers.
    """
    found: list[Style] = []
    for place in range(count):
        shade = mpl.colors.to_hex(mpl.colormaps["viridis"](0.92 * place / max(1, count - 1)))
        colour = shade if ordered else LINE_COLOURS[place % len(LINE_COLOURS)]
        dashes = ("-", "--", ":")[place // len(LINE_COLOURS) % 3] if not ordered else "-"
        found.append({"color": colour, "marker": MARKERS[place % len(MARKERS)], "ls": dashes})
    return found


def panels(names: Sequence[str], title: str, height: float = 3.5, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of accuracy beside each other."""
    figure, axes = plt.subplots(
        1, len(names), figsize=(WIDTH, height), sharey=sharey, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
        axis.grid()
    axes[0][0].set_ylabel("accuracy, %")
    headline(figure, title)
    return figure, list(axes[0])


def headline(figure: Figure, title: str, letters: int = 85) -> None:
    """Set a figure's title, on as many lines as it needs with so many letters on each."""
    figure.suptitle(fill(title, letters), fontsize=10, fontweight="bold")


def caption(figure: Figure, text: str, letters: int = 120) -> None:
    """Say below the panels what is drawn, and from how much; on lines of so many letters."""
    figure.supxlabel(fill(text, letters), fontsize=7.5, color=GREY, x=0.01, ha="left")


def legend(figure: Figure, axis: Axes, order: Sequence[str], title: str) -> None:
    """Explain the lines of ``axis`` beside the panels, in this order; nothing where there is only one."""
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    names = [name for name in order if name in handles]
    if len(names) < 2:
        return
    wrapped = [fill(name, 20) for name in names]
    figure.legend(
        [handles[name] for name in names],
        wrapped,
        title=title.replace(".", ".\n") if len(title) > 20 else title,
        loc="outside right center",
        fontsize=8,
        title_fontsize=8,
    )
    needed = 0.5 + (sum(name.count("\n") + 1 for name in wrapped) * 11 + len(wrapped) * 5) / 72
    figure.set_figheight(max(figure.get_figheight(), needed))


def draw_band(axis: Axes, found: Mapping[float, Sequence[float]], label: str, style: Style) -> None:
    """Draw the mean of the rates at each x as a line, in a band from the lowest to the highest; in per cent."""
    xs = sorted(found)
    means = [100 * sum(found[x]) / len(found[x]) for x in xs]
    lows, highs = ([100 * pick(found[x]) for x in xs] for pick in (min, max))
    axis.plot(xs, means, ms=4, lw=1.4, label=label, **style)
    axis.fill_between(xs, lows, highs, color=style["color"], alpha=0.15, lw=0)
