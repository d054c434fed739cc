"""Figures of a study, from its CSV files alone: over rounds, over a numeric key, for each point, and who has what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from simulations.reports.figures.panels import (
    Values,
    divisions,
    draw_band,
    draw_chance,
    headline,
    is_number,
    legend,
    name_group,
    name_point,
    panels,
    styles_of,
)
from simulations.reports.figures.run_figures import GREY, LINE_COLOURS, WIDTH, caption, draw_shares, images, save_all
from simulations.study_directory import (
    Row,
    attack_columns,
    finished,
    number,
    read_heading,
    read_labels,
    read_planned,
    read_rounds,
    sampling_error,
    varied_columns,
)

_NAMED = 4  # points without figures that a caption names
_BANDS = 4  # more lines than that hide each other's bands
_BAND = "; band: from the lowest to the highest"


@dataclass(frozen=True)
class Measured:
    """Rows of ``results.csv`` or ``rounds.csv`` by point.

    Attributes:
        keys: the columns that the study varies.
        rows: values of the keys -> rows of the finished runs, in the order of the file; maybe none.
        measures: what a panel shows -> column: natural accuracy, and that under the last attack of the study.
        lack: what a caption says of points without figures.
    """

    keys: tuple[str, ...]
    rows: dict[Values, list[Row]]
    measures: dict[str, str]
    lack: str = ""

    def without(self, key: str) -> "Measured":
        """Return the same rows, with one key taken for no difference."""
        keys = [k for k in self.keys if k != key]
        return replace(measured([row for rows in self.rows.values() for row in rows], keys), lack=self.lack)

    def numeric(self) -> list[str]:
        """Return the keys whose values are numbers, two or more different ones; the one with most of them first."""
        found = {key: {values[place] for values in self.rows} for place, key in enumerate(self.keys)}
        keys = [key for key, values in found.items() if len(values) > 1 and all(map(is_number, values))]
        return sorted(keys, key=lambda key: -len(found[key]))

    def note(self, drawn: str) -> str:
        """Return a caption: what is drawn of several seeds (in the place of ``{}`` how many), and from how much."""
        counts = {len({row["seed"] for row in rows}) for rows in self.rows.values() if rows}
        tested = sorted({int(float(row["n"])) for rows in self.rows.values() for row in rows if row["n"]})
        seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
        shown = "One seed" if counts == {1} else drawn.format(seeds)
        shown += self.lack
        if not tested:
            return shown
        # Half of them right is where the share of a sample is least certain.
        widest = sampling_error(tested[0])
        return f"{shown}; {images(tested)}, 95 % interval: ± {widest:.1f} points at most"


def plot_study(study_dir: Path) -> list[Path]:
    """Draw a study's figures into its ``figures/``, from its CSV files alone, in the place of earlier ones.

    ``rounds``: accuracy over rounds; ``over-KEY``: over the numeric key that the study varies; ``points``: of each
    point, where no key is numeric; ``labels``: images of each class at each client.

    Args:
        study_dir: with ``results.csv``; what other files would show is left out where they are missing.

    Returns:
        The files, each figure's PNG before its SVG.

    Raises:
        FedShieldError: there are no results, or they are damaged.
    """
    return save_all(study_figures(study_dir), study_dir / "figures", ("rounds", "over-*", "points", "labels"))


def study_figures(study_dir: Path) -> dict[str, Figure]:
    """Return the figures that ``plot_study`` saves, by name."""
    rows, rounds, labels = read_planned(study_dir), read_rounds(study_dir), read_labels(study_dir)
    heading, classes = read_heading(study_dir), _classes(labels)
    figures: dict[str, Figure] = {}
    if "natural" in rows[0]:
        over_rounds = measured_rounds(rounds, rows)
        if over_rounds.measures and len({row["round"] for row in rounds}) > 1:
            figures["rounds"] = _draw_rounds(over_rounds, heading.title, heading.unit, classes)
        results = measured(rows)
        if results.measures and (numeric := results.numeric()):
            figures[f"over-{numeric[0]}"] = _draw_over(results, numeric[0], heading.title, classes)
        elif results.measures and len(results.rows) > 1:
            figures["points"] = _draw_points(results, heading.title, heading.reference)
    if labels:
        figures["labels"] = _draw_labels(labels, heading.title)
    return figures


def measured(rows: Sequence[Row], keys: Sequence[str] | None = None) -> Measured:
    """Return rows by point, and what to show of them; ``keys``: what tells points apart, if not all that varies.

    The attack that is shown does not depend on how much harm it does: else the same figure would show another one as
    soon as a run more is finished.
    """
    if not rows:
        return Measured((), {}, {})
    chosen = varied_columns(rows[0]) if keys is None else keys
    grouped: dict[Values, list[Row]] = {}
    for row in rows:
        own = grouped.setdefault(tuple(row[key] for key in chosen), [])
        own += finished([row])
    measures = {"natural": "natural"} if any(row.get("natural") for row in rows) else {}
    if attack := _attack(rows):
        measures[f"robust ({attack})"] = attack
    return Measured(tuple(chosen), grouped, measures, _lack(rows, chosen))


def measured_rounds(rounds: Sequence[Row], planned: Sequence[Row]) -> Measured:
    """Return the rounds of the finished runs by point."""
    done = {row["run"] for row in finished(planned)}
    found = measured([row for row in rounds if row["run"] in done])
    return replace(found, lack=_lack(planned, varied_columns(planned[0])))


def _attack(rows: Sequence[Row]) -> str:
    """Return the last attack, in the study's order, of which there are figures; "" where there is none."""
    attacks = attack_columns(rows[0]) if "natural" in rows[0] else []  # else nothing was trained
    return next((attack for attack in reversed(attacks) if any(row[attack] for row in rows)), "")


def _lack(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """Say which points have no figures at all; the tables say why."""
    there = {tuple(row[key] for key in keys) for row in finished(rows)}
    lacking = list(dict.fromkeys(point for row in rows if (point := tuple(row[key] for key in keys)) not in there))
    names = "; ".join(name_point(keys, values) for values in lacking[:_NAMED])
    more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
    return f"; no figures of: {names}{more}" if lacking else ""


def _draw_rounds(measured: Measured, title: str, unit: str, classes: int | None) -> Figure:
    """Draw a line for each point: the mean over its seeds, in a band from the lowest to the highest."""
    figure, axes = panels(list(measured.measures), title, sharey=True)
    ordered = len(measured.keys) == 1 and bool(measured.numeric())
    looks = styles_of(list(measured.rows), ordered)
    band = len(looks) <= _BANDS
    last: dict[Values, float] = {}
    for axis, column in zip(axes, measured.measures.values(), strict=True):
        for values, rows in measured.rows.items():
            found = _rates(rows, "round", column)
            # A mean over fewer seeds than before would make a step where nothing happened.
            whole = {x: rates for x, rates in found.items() if len(rates) == max(map(len, found.values()))}
            if whole:
                draw_band(axis, whole, name_point(measured.keys, values), looks[values], band)
                last[values] = sum(whole[max(whole)]) / len(whole[max(whole)])
        axis.set_xlabel(unit)
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    draw_chance(axes, classes)
    # As the lines lie above each other at their ends.
    order = list(looks) if ordered else sorted(looks, key=lambda values: -last.get(values, 0))
    legend(figure, axes, measured.keys, order)
    caption(figure, measured.note("Line: the mean of {} seeds" + _BAND * band))
    return figure


def _draw_over(measured: Measured, key: str, title: str, classes: int | None) -> Figure:
    """Draw accuracy over a numeric key: a circle for each seed, a line for their mean; lines for what else varies."""
    lines = measured.without(key)
    figure, axes = panels(list(measured.measures), title, sharey=True)
    looks = styles_of(list(lines.rows))
    band = len(looks) <= _BANDS
    for axis, column in zip(axes, measured.measures.values(), strict=True):
        for values, rows in lines.rows.items():
            found = _rates(rows, key, column)
            if not found:  # as where a case has other attacks than the rest
                continue
            draw_band(axis, found, name_point(lines.keys, values), looks[values], band)
            xs, ys = zip(*((x, 100 * rate) for x, rates in found.items() for rate in rates), strict=True)
            axis.plot(xs, ys, "o", ms=3, mfc="none", mew=0.7, alpha=0.8, color=looks[values]["color"])
        values_of_key = sorted({float(values[measured.keys.index(key)]) for values in measured.rows})
        if values_of_key[0] > 0 and values_of_key[-1] / values_of_key[0] > 30:
            axis.set_xscale("log")
        axis.set_xlabel(key)
    draw_chance(axes, classes)
    legend(figure, axes, lines.keys, list(looks))
    caption(figure, measured.note("Circles: single seeds; line: the mean of {} seeds" + _BAND * band))
    return figure


def _draw_points(measured: Measured, title: str, reference: Mapping[str, str]) -> Figure:
    """Draw a row for each point, the most robust on top: a circle for each seed, a diamond for their mean.

    A dashed line goes through the mean of the reference, where that is one point.
    """
    deciding = list(measured.measures.values())[-1]
    order = sorted(measured.rows, key=lambda values: _mean(measured.rows[values], deciding))
    against = [values for values in order if reference.items() <= dict(zip(measured.keys, values, strict=True)).items()]
    dashed = against if reference and len(against) == 1 else []
    figure, axes = panels(list(measured.measures), title, height=1.3 + 0.25 * len(order), sharey=True)
    for axis, column in zip(axes, measured.measures.values(), strict=True):
        for place, values in enumerate(order):
            rates = [100 * rate for row in measured.rows[values] if (rate := number(row, column)) is not None]
            if not rates:
                axis.annotate("no figures", (0.5, place), xycoords=("axes fraction", "data"), va="center", ha="center",
                              fontsize=8, color=GREY)  # fmt: skip
                continue
            mean = sum(rates) / len(rates)
            axis.plot([mean], [place], "D", ms=6, color=LINE_COLOURS[4], clip_on=False)
            axis.plot(rates, [place] * len(rates), "o", ms=4.5, mfc="none", mew=0.9, color=LINE_COLOURS[0],
                      clip_on=False)  # fmt: skip
            axis.annotate(f"{mean:.1f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
            if values in dashed:
                axis.axvline(mean, color=GREY, lw=0.8, ls="--", zorder=1)
        left = max(0, axis.get_xlim()[0])  # no accuracy is less
        axis.set(xlabel="accuracy, %", ylabel="", ylim=(-0.6, len(order) - 0.4), xlim=(left, None))
    axes[0].set_yticks(range(len(order)), [fill(name_point(measured.keys, values), 34) for values in order])
    rest = f"; dashed: {name_point(measured.keys, dashed[0])}" if dashed else ""
    caption(figure, measured.note("Circles: single seeds; diamond and number: the mean of {} seeds") + rest)
    return figure


def _draw_labels(labels: Sequence[Row], title: str) -> Figure:
    """Draw images of each class at each client, in one panel for each different division; of the first seed."""
    keys, seed = tuple(varied_columns(labels[0])), labels[0]["seed"]
    found = divisions([row for row in labels if row["seed"] == seed], keys)
    count = len(found)
    columns = 2 if count in (2, 4) else min(count, 3)
    lines = -(-count // columns)
    clients = max(len(next(iter(table.values()))) for table, _ in found)
    size = WIDTH, 0.8 + lines * max(1.9, min(0.8 + 0.17 * clients, 6))
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained", sharex=True)
    for axis, (table, group) in zip(axes.flat, found, strict=False):
        draw_shares(axis, table)
        axis.set_title(fill(name_group(keys, group), 64 // columns) if count > 1 else "")
        axis.set(xlabel="training images")
        axis.tick_params(labelbottom=True)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("client")
    headline(figure, f"{title}: the clients' own images, seed {seed}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _classes(labels: Sequence[Row]) -> int | None:
    """Return the number of classes, where the points agree in it."""
    found: dict[str, set[str]] = {}
    for row in labels:
        found.setdefault(row["point"], set()).add(row["class"])
    counts = {len(names) for names in found.values()}
    return counts.pop() if len(counts) == 1 else None


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
