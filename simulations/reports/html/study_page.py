"""The report of a study, from its directory alone."""

import re
from collections.abc import Sequence
from pathlib import Path

from common.config.flat import default_config
from common.statistics import sampling_error
from simulations.reports.figures.measured import Measured, measured
from simulations.reports.figures.study_figures import study_figures
from simulations.reports.html.page import Block, Code, Fact, Page, Section, Table, Text, charts
from simulations.reports.html.run_page import HOW_TO_READ, difference_table
from simulations.reports.repeat import sweep_again
from simulations.reports.sheets import Sheet, stacked
from simulations.reports.study_tables import lacking, make_tables
from simulations.study_directory import Row, finished, read_heading, read_planned

_INTERVAL = re.compile(r"\[([+-][\d.]+|0\.0), ([+-][\d.]+|0\.0)\]")  # of a difference: the ends have a sign


def study_page(study_dir: Path) -> Page:
    """Gather a study's report.

    Args:
        study_dir: absolute.

    Raises:
        FedShieldError: there are no results, or they are damaged.
    """
    planned = read_planned(study_dir)
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
    figures = study_figures(study_dir)
    over_rounds, divisions = (charts(figures.pop(name)) if name in figures else [] for name in ("rounds", "labels"))
    alone = ["One seed: nothing here shows what another seed would give."] if len(seeds) == 1 else []
    return Page(
        title=heading.title,
        lead=f"A study of {', '.join(results.keys) or 'one point'} over {len(seeds)} training seeds.",
        facts=facts,
        warnings=[*lacking(planned), *alone],
        sections=[
            Section("Results", [_table(sheet) for sheet in sheets if not _differs(sheet)]),
            Section("Differences", [_table(sheet) for sheet in sheets if _differs(sheet)]),
            Section("Figures", [block for figure in figures.values() for block in charts(figure)]),
            Section(f"Accuracy over {heading.unit}s", over_rounds),
            Section("Who has which classes", divisions),
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


def _differs(sheet: Sheet) -> bool:
    return sheet.title.startswith("Difference from ")


def _sure(cell: str) -> bool:
    found = _INTERVAL.search(cell)
    return found is not None and float(found[1]) * float(found[2]) > 0
