"""Figures of a study, from its CSV files alone: over rounds, over a numeric key, for each point, and who has what."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from simulations.reports.figures.charts import heat, of_seeds, shares
from simulations.reports.figures.files import save_all
from simulations.reports.figures.line_charts import Lines, lines, top_of, with_chance
from simulations.reports.figures.measured import Measured, Rows, ends, mean, measured, measured_rounds, rates, whole
from simulations.reports.figures.points import Values, divisions, name_group, name_point, pair_of
from simulations.reports.figures.privacy_figures import privacy_figures
from simulations.reports.figures.run_figures import HOLDER, by_client, height_of, with_totals
from simulations.reports.figures.style import LEGEND, Figure, Panel
from simulations.reports.labels import factor_of, words_of
from simulations.reports.study_tables import tell_chances
from simulations.study_directory import (
    Row,
    chances,
    numbers,
    read_heading,
    read_labels,
    read_planned,
    read_rounds,
    varied_columns,
)

log = logging.getLogger("fedshield")

_BANDS = 4  # more lines than that hide each other's bands
_LINES = 12  # more cannot be told apart
_NAMES = ("rounds", "over-*", "points", "grid", "privacy", "epsilon", "labels")
_BAND = "; band: from the lowest to the highest"


class Said(NamedTuple):
    """What a figure says of itself; ``guessing``: as in ``chances``."""

    title: str
    caption: str
    guessing: Sequence[float]


def plot_study(study_dir: Path, plain: bool = False) -> list[Path]:
    """Draw a study's figures into its ``figures/``, from its CSV files alone, replacing earlier ones.

    ``rounds``: accuracy over rounds, unless the lines would be many; ``over-KEY``: over the numeric key that the study
    varies; ``points``: of each point, where no key is numeric or the lines would be many; ``grid``: strategies against
    lies, or many cases in several settings; ``privacy`` and ``epsilon``: accuracy against what the models tell about
    their training images, and against epsilon; ``labels``: images of each class at each client.

    Args:
        study_dir: with ``results.csv``; what other files would show is left out where they are missing.
        plain: without title and caption, for a paper that has its own.

    Returns:
        The files, each figure's PNG before its SVG and its PDF.

    Raises:
        FedShieldError: there are no results, or they are damaged.
    """
    figures = study_figures(study_dir)
    if plain:
        figures = {name: replace(figure, title="", caption="") for name, figure in figures.items()}
    return save_all(figures, study_dir / "figures", _NAMES, pdf=True)


def study_figures(study_dir: Path) -> dict[str, Figure]:
    """Return the figures that ``plot_study`` saves, by name."""
    rows, rounds, labels = read_planned(study_dir), read_rounds(study_dir), read_labels(study_dir)
    heading, guessing = read_heading(study_dir), chances(rows, labels)
    figures: dict[str, Figure] = {}
    if "natural" in rows[0]:
        over_rounds = measured_rounds(rounds, rows, heading.headline)
        if over_rounds.measures and len({row["round"] for row in rounds}) > 1 and not _too_many(over_rounds, "rounds"):
            figures["rounds"] = _draw_rounds(over_rounds, heading.title, heading.unit, guessing)
        results = measured(rows, headline=heading.headline)
        numeric = results.numeric()
        if results.measures and numeric and len(results.without(numeric[0]).rows) <= _LINES:
            figures[f"over-{numeric[0]}"] = _draw_over(results, numeric[0], heading.title, guessing)
        elif results.measures and len(results.rows) > 1:
            figures["points"] = _draw_points(results, heading.title, heading.reference, guessing)
            if key := _key_of_grid(results):
                figures["grid"] = _draw_grid(results, key, heading.title, guessing)
        figures |= privacy_figures(results, heading.title, guessing)
    if labels:
        figures["labels"] = _draw_labels(labels, heading.title)
    return figures


def _too_many(measured: Measured, name: str) -> bool:
    """Return whether a figure would have more lines than can be told apart, and say so."""
    if (count := len(measured.rows)) <= _LINES:
        return False
    log.info("No figure %s: %d lines cannot be told apart; %s.csv has the numbers", name, count, name)
    return True


def _draw_rounds(measured: Measured, title: str, unit: str, guessing: Sequence[float]) -> Figure:
    """Draw a line for each point: the mean over its seeds, in a band from the lowest to the highest."""
    ordered = len(measured.keys) == 1 and bool(measured.numeric())
    rows = {name: whole(rates(measured, column, "round")) for name, column in measured.measures.items()}
    last = {name: end for each in rows.values() for name, end in ends(each).items()}
    points = list(measured.rows)
    if not ordered:  # as the lines lie above each other at their ends
        points.sort(key=lambda values: -last.get(name_point(measured.keys, values) or "all", 0))
    band = len(points) <= _BANDS
    note = measured.note("Line: the mean of {} seeds" + _BAND * band)
    return _line_figure(measured, points, rows, unit, Said(title, note, guessing), band=band, ordered=ordered)


def _draw_over(measured: Measured, key: str, title: str, guessing: Sequence[float]) -> Figure:
    """Draw accuracy over a numeric key: a circle for each seed, a line for their mean; lines for what else varies."""
    named = measured.without(key)
    rows = {name: rates(named, column, key, factor_of(key)) for name, column in named.measures.items()}
    points = list(named.rows)
    band = len(points) <= _BANDS
    values = sorted({factor_of(key) * float(values[measured.keys.index(key)]) for values in measured.rows})
    log = values[0] > 0 and values[-1] / values[0] > 30
    note = measured.note("Circles: single seeds; line: the mean of {} seeds" + _BAND * band)
    return _line_figure(named, points, rows, key, Said(title, note, guessing), band=band, rings=True, log=log)


def _line_figure(
    measured: Measured, points: Sequence[Values], rows: Mapping[str, Rows], x: str, said: Said, **how: bool
) -> Figure:
    """Return a panel for each measure, with a line for each point that has rates.

    Args:
        measured: what is drawn.
        points: in the order of the legend.
        rows: measure -> its rates.
        x: what the axis is.
        said: of the whole figure.
        how: see ``Lines``.
    """
    chance = said.guessing[0] if len(said.guessing) == 1 else None
    caption = said.caption + (f"; chance: {tell_chances(said.guessing)}" if len(said.guessing) > 1 else "")
    top = top_of([row["accuracy"] for each in rows.values() for row in each], chance)
    pairs = [pair_of(measured.keys, values, list(measured.rows)) for values in measured.rows]
    drawn = {row["first"] for each in rows.values() for row in each}
    order = dict.fromkeys(pair_of(measured.keys, values, list(measured.rows))[0] for values in points)
    shown = [name for name in order if name in drawn]
    key = measured.keys[0] if len(measured.keys) == 1 and measured.keys[0] != "case" else ""
    style = Lines(words_of(x), pairs, shown, top, words_of(key), **how)
    panels = [
        Panel(name, with_chance(lines(each, style), chance, top), max(270, 17 * len(shown)))
        for name, each in rows.items()
    ]
    longest = max(min(LEGEND, len(name)) for pair in pairs for name in pair) if len(pairs) > 1 else 0
    return Figure(panels, said.title, caption, longest and 40 + 6 * longest, 2)


def _draw_points(measured: Measured, title: str, reference: Mapping[str, str], guessing: Sequence[float]) -> Figure:
    """Draw a row for each point, the most robust on top: a circle for each seed, a diamond for their mean.

    A dashed line goes through the mean of the reference, where that is one point.

    Args:
        measured: what is drawn.
        title: of the figure.
        reference: the point with which the others are compared.
        guessing: as in ``chances``.
    """
    deciding = list(measured.measures.values())[-1]
    order = sorted(measured.rows, key=lambda values: -mean(measured.rows[values], deciding))
    against = [values for values in order if reference.items() <= dict(zip(measured.keys, values, strict=True)).items()]
    dashed = against if reference and len(against) == 1 else []
    names = [name_point(measured.keys, values) for values in order]
    panels = []
    for name, column in measured.measures.items():
        rows = rates(measured, column, empty=True)
        mark = [mean(measured.rows[values], column) for values in dashed]
        panels.append(Panel(name, of_seeds(rows, names, *mark), max(80, 24 * len(names))))
    rest = f"; dashed: {name_point(measured.keys, dashed[0])}" if dashed else ""
    rest += f"; chance: {tell_chances(guessing)}" if guessing else ""
    caption = measured.note("Circles: single seeds; diamond and number: the mean of {} seeds") + rest
    margin = 40 + 6 * min(34, max(map(len, names)))
    return Figure(panels, title, caption, margin, len(panels), names_once=True)


def _key_of_grid(measured: Measured) -> str:
    """Return what the rows of a grid are: strategies against lies, or many cases; empty where there is none."""
    keys = set(measured.keys)
    if len(keys) == 2 and "strategy.name" in keys and keys & {"case", "byzantine.attack"}:
        return "strategy.name"
    return "case" if len(keys) > 1 and "case" in keys and len(measured.rows) > _LINES else ""


def _draw_grid(measured: Measured, key: str, title: str, guessing: Sequence[float]) -> Figure:
    """Draw a cell for each point, with the mean over the seeds; ``key`` gives the rows, all others the columns."""
    at = measured.keys.index(key)
    others = [other for other in measured.keys if other != key]
    places = {values: name_point(others, (*values[:at], *values[at + 1 :])) for values in measured.rows}
    down, across = list(dict.fromkeys(values[at] for values in places)), list(dict.fromkeys(places.values()))
    panels = []
    for name, column in measured.measures.items():
        cells = [
            {"down": values[at], "across": places[values], "accuracy": percent, "mean": f"{percent:.1f}"}
            for values, rows in measured.rows.items()
            if numbers(rows, column)
            for percent in [mean(rows, column)]
        ]
        panels.append(Panel(name, heat(cells, down, across), max(80, 28 * len(down))))
    rest = f"; chance: {tell_chances(guessing)}" if guessing else ""
    caption = measured.note("Mean accuracy, %, over {} seeds; empty: no figures") + rest
    return Figure(panels, title, caption, 130, len(panels), names_once=True)


def _draw_labels(labels: Sequence[Row], title: str) -> Figure:
    """Draw images of each class at each client, in one panel for each different division; of the first seed."""
    keys, seed = tuple(varied_columns(labels[0])), labels[0]["seed"]
    panels = []
    for table, group in divisions([row for row in labels if row["seed"] == seed], keys):
        clients = with_totals(by_client(zip(*table.values(), strict=True)))
        drawing = shares(clients, list(table), "class", HOLDER)
        panels.append(Panel(name_group(keys, group), drawing, height_of(len(clients))))
    caption = "The darker, the more of a client's own images are of the class"
    return Figure(panels, f"{title}: the clients' own images, seed {seed}", caption, 130, 2)
