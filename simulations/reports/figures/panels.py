"""What the figures of studies are made of: panels beside each other, lines with bands, legends, captions."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TypedDict

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simulations.reports.figures.run_figures import GREY, LINE_COLOURS, MARKERS, WIDTH, in_legend
from simulations.study_directory import Row

Values = tuple[str, ...]
Table = dict[str, list[float]]

_DASHES = ("-", "--", ":")


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
        dashes = _DASHES[place // len(LINE_COLOURS) % 3] if not ordered else "-"
        found.append({"color": colour, "marker": MARKERS[place % len(MARKERS)], "ls": dashes})
    return found


def paired(points: Sequence[Values]) -> bool:
    """Return whether colours can stand for the first of two keys, and dashes for the second."""
    if not points or len(points[0]) != 2:
        return False
    first, second = (len({values[place] for values in points}) for place in (0, 1))
    return 1 < first <= len(LINE_COLOURS) and 1 < second <= len(_DASHES)


def styles_of(points: Sequence[Values], ordered: bool = False) -> dict[Values, Style]:
    """Return a style for each point; of two keys, colour and marker say the first, dashes the second if it has few."""
    if not paired(points):
        return dict(zip(points, styles(len(points), ordered), strict=True))
    first, second = (list(dict.fromkeys(values[place] for values in points)) for place in (0, 1))
    looks = dict(zip(first, styles(len(first)), strict=True))
    return {(one, two): {**looks[one], "ls": _DASHES[second.index(two)]} for one, two in points}


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


def legend(figure: Figure, axes: Sequence[Axes], keys: Sequence[str], order: Sequence[Values]) -> None:
    """Explain the lines of the points beside the panels, in this order; nothing where there is only one."""
    drawn: dict[str, Line2D] = {str(line.get_label()): line for axis in axes for line in axis.lines}
    lines = {values: drawn[name] for values in order if (name := name_point(keys, values)) in drawn}
    if len(lines) < 2:
        return
    handles = {name_point(keys, values): line for values, line in lines.items()}
    if paired(order):
        colours = {values[0]: line for values, line in lines.items()}
        dashes = {values[1]: line for dash in _DASHES for values, line in lines.items() if line.get_linestyle() == dash}
        handles = {_say(keys[0], value): Line2D([], [], color=line.get_color(), marker=line.get_marker(), ls="")
                   for value, line in colours.items()}  # fmt: skip
        handles |= {_say(keys[1], value): Line2D([], [], color=GREY, ls=line.get_linestyle())
                    for value, line in dashes.items()}  # fmt: skip
    wrapped = [in_legend(name) for name in handles]
    title = keys[0] if len(keys) == 1 and keys[0] != "case" else ""
    figure.legend(
        list(handles.values()),
        wrapped,
        title=title.replace(".", ".\n") if len(title) > 20 else title,
        loc="outside right center",
        fontsize=8,
        title_fontsize=8,
        handlelength=2.6,
    )
    needed = 0.5 + (sum(name.count("\n") + 1 for name in wrapped) * 11 + len(wrapped) * 5) / 72
    figure.set_figheight(max(figure.get_figheight(), needed))


def draw_band(axis: Axes, found: Mapping[float, Sequence[float]], label: str, style: Style, band: bool = True) -> None:
    """Draw the mean of the rates at each x as a line, in a band from the lowest to the highest; in per cent."""
    xs = sorted(found)
    means = [100 * sum(found[x]) / len(found[x]) for x in xs]
    lows, highs = ([100 * pick(found[x]) for x in xs] for pick in (min, max))
    axis.plot(xs, means, ms=4, lw=1.4, label=label, **style)
    if band:
        axis.fill_between(xs, lows, highs, color=style["color"], alpha=0.15, lw=0)


def draw_chance(axes: Sequence[Axes], classes: int | None) -> None:
    """Draw what guessing would give, where the number of classes is known; let the axes start at 0."""
    for axis in axes:
        axis.set_ylim(0, None)
        if classes:
            axis.axhline(100 / classes, color=GREY, lw=0.9, ls=(0, (1, 2)), zorder=1)
            axis.annotate("chance", (1, 100 / classes), (0, 2), xycoords=axis.get_yaxis_transform(),
                          textcoords="offset points", ha="right", fontsize=7.5, color=GREY)  # fmt: skip


def name_point(keys: Sequence[str], values: Sequence[str]) -> str:
    """Name a point: words as they are, numbers with the last part of their key, unless there is but one key."""
    if len(keys) == 1:
        return values[0]
    return ", ".join(_say(key, value) for key, value in zip(keys, values, strict=True))


def name_group(keys: Sequence[str], group: Sequence[Values]) -> str:
    """Name points together, by the keys in which they agree where there are any."""
    agreed = [place for place in range(len(keys)) if len({values[place] for values in group}) == 1]
    if agreed:
        return name_point([keys[place] for place in agreed], [group[0][place] for place in agreed])
    names = [name_point(keys, values) for values in group]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"


def divisions(labels: Sequence[Row], keys: Sequence[str]) -> list[tuple[Table, list[Values]]]:
    """Return each different table, class -> its images at each client, with the points that have it."""
    tables: dict[Values, Table] = {}
    for row in labels:
        table = tables.setdefault(tuple(row[key] for key in keys), {})
        table.setdefault(row["class"], []).append(float(row["images"]))
    found: list[tuple[Table, list[Values]]] = []
    for values, table in tables.items():
        group = next((group for known, group in found if known == table), None)
        if group is None:
            found.append((table, group := []))
        group.append(values)
    return found


def _say(key: str, value: str) -> str:
    return f"{key.rsplit('.', 1)[-1]} {value}" if is_number(value) or value in {"true", "false"} else value


def is_number(text: str) -> bool:
    """Return whether a cell holds a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
