"""The report of a study, from its directory alone."""

import re
from collections.abc import Sequence
from pathlib import Path

from common.config.flat import default_config
from simulations.reports.figures.panels import divisions, name_group, name_point
from simulations.reports.figures.study_figures import Measured, measured, measured_rounds
from simulations.reports.html import charts
from simulations.reports.html.page import Block, Chart, Code, Fact, Page, Section, Table, Text
from simulations.reports.html.run_page import HOW_TO_READ, difference_table
from simulations.reports.repeat import sweep_again
from simulations.reports.sheets import Sheet, stacked
from simulations.reports.study_tables import lacking, make_tables
from simulations.study_directory import (
    Row,
    finished,
    read_heading,
    read_labels,
    read_planned,
    read_rounds,
    sampling_error,
    varied_columns,
)

_INTERVAL = re.compile(r"\[([+-]?[\d.]+), ([+-]?[\d.]+)\]")


def study_page(study_dir: Path) -> Page:
    """Gather a study's report.

    Args:
        study_dir: absolute.

    Raises:
        FedShieldError: there are no results, or they are damaged.
    """
    planned, rounds, labels = read_planned(study_dir), read_rounds(study_dir), read_labels(study_dir)
    rows = finished(planned)
    heading = read_heading(study_dir)
    results = measured(planned)
    sheets = make_tables(study_dir)
    seeds = sorted({int(row["seed"]) for row in rows})
    tested = sorted({int(row["n"]) for row in rows if row.get("n")})
    facts = [
        Fact("finished runs", *_finished(rows, planned, results)),
        Fact("training seeds", str(len(seeds)), ", ".join(map(str, seeds))),
    ]
    if tested:
        detail = f"95 % interval of a figure: ± {sampling_error(tested[0]):.1f} points at most"
        facts.append(Fact("test images", f"n = {tested[0]:,}", detail))
    unit, over_rounds = heading.unit, measured_rounds(rounds, planned)
    alone = ["One seed: nothing here shows what another seed would give."] if len(seeds) == 1 else []
    return Page(
        title=heading.title,
        lead=f"A study of {', '.join(results.keys) or 'one point'} over {len(seeds)} training seeds.",
        facts=facts,
        warnings=[*lacking(planned), *alone],
        sections=[
            Section("Results", [_table(sheet) for sheet in sheets[:1]]),
            Section("Differences", [_table(sheet) for sheet in sheets[1:]]),
            Section("Figures", _figures(results)),
            Section(f"Accuracy over {unit}s", _lines(over_rounds, "round", unit, False)),
            Section("Who has which classes", _divisions(labels)),
            Section("What all runs have in common", [difference_table({**default_config(), **heading.recipe})]),
            Section("The command that repeats it", _again(study_dir)),
            Section("How to read this", [Text(HOW_TO_READ)] if tested else []),
        ],
    )


def _finished(rows: Sequence[Row], planned: Sequence[Row], results: Measured) -> tuple[str, str]:
    """Say how many of the planned runs, and of the points, have figures."""
    points, there = len(results.rows), sum(map(bool, results.rows.values()))
    runs = str(len(rows)) if len(rows) == len(planned) else f"{len(rows)} of {len(planned)}"
    return runs, f"{points} points" if there == points else f"{there} of {points} points"


def _again(study_dir: Path) -> list[Block]:
    """Return the command that repeats a study, where its file is kept."""
    if command := sweep_again(study_dir):
        return [Code(command)]
    return [Text("There is no study.toml next to the results: write the study file again, and sweep it.")]


def _table(sheet: Sheet) -> Table:
    """Return a sheet; a difference whose interval leaves out zero is marked."""
    rows = [[stacked(f"{cell} ●" if _sure(cell) else cell) for cell in row] for row in sheet.rows]
    notes = list(sheet.notes)
    if any(_sure(cell) for row in sheet.rows for cell in row):
        notes.append("●: the 95 % interval leaves out 0")
    return Table(sheet.header, rows, sheet.names, notes, sheet.title)


def _sure(cell: str) -> bool:
    found = _INTERVAL.search(cell)
    return found is not None and float(found[1]) * float(found[2]) > 0


def _figures(results: Measured) -> list[Block]:
    """Return a figure for natural accuracy and one for an attack."""
    if numeric := results.numeric():
        return _lines(results, numeric[0], numeric[0], True)
    if len(results.rows) < 2:
        return []
    blocks: list[Block] = []
    for name, column in results.measures.items():
        found = _rates(results, column)
        names = [name_point(results.keys, values) or "all" for values in results.rows]
        caption = f"Accuracy, {name}. Rings: training seeds; diamonds: their mean{results.lack}."
        blocks.append(Chart(charts.of_seeds(found, names), caption))
    return blocks


def _lines(results: Measured, key: str, title: str, rings: bool) -> list[Block]:
    """Return accuracy over a key, or over rounds; none where nothing was measured."""
    named = results.without(key)
    blocks: list[Block] = []
    for name, column in named.measures.items():
        caption = (
            f"Accuracy, {name}. Lines: the mean of the seeds{'; rings: single seeds' if rings else ''}{results.lack}."
        )
        blocks.append(Chart(charts.lines(_rates(named, column, key), title, rings), caption))
    return blocks


def _rates(results: Measured, column: str, x: str | None = None) -> list[dict[str, str | float]]:
    """Return the accuracies of a column, with the point's name, the seed and, as ``x``, the value of a key."""
    return [
        {
            "name": name_point(results.keys, values) or "all",
            "seed": row["seed"],
            "accuracy": 100 * float(row[column]),
            **({"x": float(row[x])} if x else {}),
        }
        for values, rows in results.rows.items()
        for row in rows
        if row[column]
    ]


def _divisions(labels: Sequence[Row]) -> list[Block]:
    """Return the shares of the classes at each client, one figure for each different division of the first seed."""
    if not labels:
        return []
    seed, keys = labels[0]["seed"], varied_columns(labels[0])
    blocks: list[Block] = []
    for table, points in divisions([row for row in labels if row["seed"] == seed], keys):
        clients = {f"client {client}": own for client, own in enumerate(zip(*table.values(), strict=True))}
        caption = f"{name_group(keys, points)}: the clients' own images, seed {seed}."
        blocks.append(Chart(charts.shares(clients, list(table), "class", "holder"), caption))
    return blocks
