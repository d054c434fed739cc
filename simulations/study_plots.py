"""Figures of a study, from its CSV files alone: over rounds, over a numeric key, for each point, and who has what."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.errors import explain_os_errors
from simulations.panels import GREY, caption, draw_band, headline, legend, panels, styles
from simulations.plots import LINE_COLOURS, WIDTH, draw_shares, save
from simulations.study_results import (
    Row,
    attack_columns,
    number,
    read_heading,
    read_labels,
    read_results,
    read_rounds,
    varied_columns,
)

Values = tuple[str, ...]
Table = dict[str, list[float]]


@dataclass(frozen=True)
class Measured:
    """Rows of ``results.csv`` or ``rounds.csv`` by point.

    Attributes:
        keys: the columns that the study varies.
        rows: values of the keys -> rows, in the order of the file.
        measures: what a panel shows -> column: natural accuracy, and that under the attack that hurts most.
    """

    keys: tuple[str, ...]
    rows: dict[Values, list[Row]]
    measures: dict[str, str]

    def without(self, key: str) -> "Measured":
        """Return the same rows, with one key taken for no difference."""
        return _measured([row for rows in self.rows.values() for row in rows], [k for k in self.keys if k != key])

    def numeric(self) -> list[str]:
        """Return the keys whose values are numbers, two or more different ones; the one with most of them first."""
        found = {key: {rows[0][key] for rows in self.rows.values()} for key in self.keys}
        keys = [key for key, values in found.items() if len(values) > 1 and all(map(_is_number, values))]
        return sorted(keys, key=lambda key: -len(found[key]))

    def note(self, drawn: str) -> str:
        """Return a caption: what is drawn of several seeds (in the place of ``{}`` how many), and from how much."""
        counts = {len({row["seed"] for row in rows}) for rows in self.rows.values()}
        tested = sorted({int(float(row["n"])) for rows in self.rows.values() for row in rows if row["n"]})
        seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
        shown = "One seed" if counts == {1} else drawn.format(seeds)
        return f"{shown}; n = {' or '.join(map(str, tested))} test images"


def plot_study(study_dir: Path) -> list[Path]:
    """Draw a study's figures into its ``figures/``, from its CSV files alone.

    ``rounds``: accuracy over rounds; ``over-KEY``: over the numeric key that the study varies; ``points``: of each
    point, where no key is numeric; ``labels``: images of each class at each client.

    Args:
        study_dir: with ``results.csv``; what other files would show is left out where they are missing.

    Returns:
        The files, each figure's PNG before its SVG.

    Raises:
        FedShieldError: there are no results, or they are damaged.
    """
    figures = study_figures(study_dir)
    folder = study_dir / "figures"
    with explain_os_errors(folder):
        folder.mkdir(exist_ok=True)
    return [path for name, figure in figures.items() for path in save(figure, folder / name)]


def study_figures(study_dir: Path) -> dict[str, Figure]:
    """Return the figures that ``plot_study`` saves, by name."""
    rows, rounds, labels = read_results(study_dir), read_rounds(study_dir), read_labels(study_dir)
    heading = read_heading(study_dir)
    figures: dict[str, Figure] = {}
    if "natural" in rows[0]:
        finished = {row["run"] for row in rows}
        over_rounds = _measured([row for row in rounds if row["run"] in finished])
        if over_rounds.measures and len({row["round"] for row in rounds}) > 1:
            figures["rounds"] = _draw_rounds(over_rounds, heading.title, _unit(study_dir))
        results = _measured(rows)
        if results.measures and (numeric := results.numeric()):
            figures[f"over-{numeric[0]}"] = _draw_over(results, numeric[0], heading.title)
        elif results.measures and len(results.rows) > 1:
            figures["points"] = _draw_points(results, heading.title, heading.reference)
    if labels:
        figures["labels"] = _draw_labels(labels, heading.title)
    return figures


def _measured(rows: Sequence[Row], keys: Sequence[str] | None = None) -> Measured:
    if not rows:
        return Measured((), {}, {})
    chosen = varied_columns(rows[0]) if keys is None else keys
    grouped: dict[Values, list[Row]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[key] for key in chosen), []).append(row)
    measures = {"natural": "natural"} if any(row["natural"] for row in rows) else {}
    means = {column: _mean(rows, column) for column in attack_columns(rows[0]) if any(row[column] for row in rows)}
    if means:
        strongest = min(means, key=lambda column: means[column])
        measures[f"robust ({strongest})"] = strongest
    return Measured(tuple(chosen), grouped, measures)


def _draw_rounds(measured: Measured, title: str, unit: str) -> Figure:
    """Draw a line for each point: the mean over its seeds, in a band from the lowest to the highest."""
    figure, axes = panels(list(measured.measures), title)
    ordered = len(measured.keys) == 1 and bool(measured.numeric())
    last: dict[str, float] = {}
    for axis, column in zip(axes, measured.measures.values(), strict=True):
        for (values, rows), style in zip(measured.rows.items(), styles(len(measured.rows), ordered), strict=True):
            found = _rates(rows, "round", column)
            # A mean over fewer seeds than before would make a step where nothing happened.
            whole = {x: rates for x, rates in found.items() if len(rates) == max(map(len, found.values()))}
            if whole:
                draw_band(axis, whole, name := _name(measured.keys, values), style)
                last[name] = sum(whole[max(whole)]) / len(whole[max(whole)])
        axis.set_xlabel(unit)
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    order = [_name(measured.keys, values) for values in measured.rows]
    if not ordered:  # as the lines lie above each other at their ends
        order.sort(key=lambda name: -last.get(name, 0))
    legend(figure, axes[-1], order, _only(measured.keys))
    caption(figure, measured.note("Line: the mean of {} seeds; band: from the lowest to the highest"))
    return figure


def _draw_over(measured: Measured, key: str, title: str) -> Figure:
    """Draw accuracy over a numeric key: a circle for each seed, a line for their mean; lines for what else varies."""
    lines = measured.without(key)
    figure, axes = panels(list(measured.measures), title)
    for axis, column in zip(axes, measured.measures.values(), strict=True):
        for (values, rows), style in zip(lines.rows.items(), styles(len(lines.rows)), strict=True):
            found = _rates(rows, key, column)
            draw_band(axis, found, _name(lines.keys, values), style)
            xs, ys = zip(*((x, 100 * rate) for x, rates in found.items() for rate in rates), strict=True)
            axis.plot(xs, ys, "o", ms=3, mfc="none", mew=0.7, alpha=0.8, color=style["color"])
        values_of_key = sorted({float(rows[0][key]) for rows in measured.rows.values()})
        if values_of_key[0] > 0 and values_of_key[-1] / values_of_key[0] > 30:
            axis.set_xscale("log")
        axis.set_xlabel(key)
    legend(figure, axes[-1], [_name(lines.keys, values) for values in lines.rows], _only(lines.keys))
    spread = "Circles: single seeds; line: the mean of {} seeds; band: from the lowest to the highest"
    caption(figure, measured.note(spread))
    return figure


def _draw_points(measured: Measured, title: str, reference: Mapping[str, str]) -> Figure:
    """Draw a row for each point, the most robust on top: a circle for each seed, a diamond for their mean.

    A dashed line goes through the mean of the reference, where that is one point.
    """
    deciding = list(measured.measures.values())[-1]
    order = sorted(measured.rows, key=lambda values: _mean(measured.rows[values], deciding))
    against = [values for values in order if reference.items() <= measured.rows[values][0].items()]
    dashed = against if reference and len(against) == 1 else []
    figure, axes = panels(list(measured.measures), title, height=1.3 + 0.25 * len(order), sharey=True)
    for axis, column in zip(axes, measured.measures.values(), strict=True):
        for place, values in enumerate(order):
            rates = [100 * rate for row in measured.rows[values] if (rate := number(row, column)) is not None]
            if not rates:
                continue
            mean = sum(rates) / len(rates)
            axis.plot([mean], [place], "D", ms=6, color=LINE_COLOURS[4])
            axis.plot(rates, [place] * len(rates), "o", ms=4.5, mfc="none", mew=0.9, color=LINE_COLOURS[0])
            axis.annotate(f"{mean:.1f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
            if values in dashed:
                axis.axvline(mean, color=GREY, lw=0.8, ls="--", zorder=1)
        axis.set(xlabel="accuracy, %", ylabel="", ylim=(-0.6, len(order) - 0.4))
    axes[0].set_yticks(range(len(order)), [fill(_name(measured.keys, values), 34) for values in order])
    rest = f"; dashed: {_name(measured.keys, dashed[0])}" if dashed else ""
    caption(figure, measured.note("Circles: single seeds; diamond and number: the mean of {} seeds") + rest)
    return figure


def _draw_labels(labels: Sequence[Row], title: str) -> Figure:
    """Draw images of each class at each client, in one panel for each different division; of the first seed."""
    keys, seed = tuple(varied_columns(labels[0])), labels[0]["seed"]
    divisions = _divisions([row for row in labels if row["seed"] == seed], keys)
    count = len(divisions)
    columns = 2 if count in (2, 4) else min(count, 3)
    lines = -(-count // columns)
    clients = max(len(next(iter(table.values()))) for table, _ in divisions)
    size = WIDTH, 0.8 + lines * max(1.9, min(0.8 + 0.17 * clients, 6))
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained", sharex=True)
    for axis, (table, group) in zip(axes.flat, divisions, strict=False):
        draw_shares(axis, table)
        axis.set_title(fill(_name_group(keys, group), 64 // columns) if count > 1 else "")
        axis.set(xlabel="training images")
        axis.tick_params(labelbottom=True)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("client")
    headline(figure, f"{title}: the clients' own images, seed {seed}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _divisions(labels: Sequence[Row], keys: Sequence[str]) -> list[tuple[Table, list[Values]]]:
    """Return each different table, class -> its images at each client, with the points that have it."""
    tables: dict[Values, Table] = {}
    for row in labels:
        table = tables.setdefault(tuple(row[key] for key in keys), {})
        table.setdefault(row["class"], []).append(float(row["images"]))
    divisions: list[tuple[Table, list[Values]]] = []
    for values, table in tables.items():
        group = next((group for known, group in divisions if known == table), None)
        if group is None:
            divisions.append((table, group := []))
        group.append(values)
    return divisions


def _name(keys: Sequence[str], values: Sequence[str]) -> str:
    """Name a point: words as they are, numbers with the last part of their key, unless there is but one key."""
    if len(keys) == 1:
        return values[0]
    bare = [_is_number(value) or value in {"true", "false"} for value in values]
    parts = zip(keys, values, bare, strict=True)
    return ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" if say else value for key, value, say in parts)


def _name_group(keys: Sequence[str], group: Sequence[Values]) -> str:
    """Name points together, by the keys in which they agree where there are any."""
    agreed = [place for place in range(len(keys)) if len({values[place] for values in group}) == 1]
    if agreed:
        return _name([keys[place] for place in agreed], [group[0][place] for place in agreed])
    names = [_name(keys, values) for values in group]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"


def _only(keys: Sequence[str]) -> str:
    """Return the title of a legend: the key, where the names leave it out."""
    return keys[0] if len(keys) == 1 and keys[0] != "case" else ""


def _rates(rows: Sequence[Row], x: str, column: str) -> dict[float, list[float]]:
    """Return the values of a column by that of another one; empty cells are passed over."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if (rate := number(row, column)) is not None:
            found.setdefault(float(row[x]), []).append(rate)
    return found


def _mean(rows: Sequence[Row], column: str) -> float:
    rates = [rate for row in rows if (rate := number(row, column)) is not None]
    return sum(rates) / len(rates) if rates else 0.0


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _unit(study_dir: Path) -> str:
    """Return what the runs are counted in."""
    path = study_dir / "study.toml"
    with explain_os_errors(path):
        command = tomllib.loads(path.read_text()).get("command") if path.exists() else None
    return "epoch" if command == "centralized" else "round"
