"""Commands of studies."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from common.config.assignment import parse_assignment
from common.config.flat import Flat
from server.run_directory.reader import find_results
from simulations.cli.options import (
    DryOption,
    SetOption,
    SomePath,
    complete_study,
)
from simulations.terminal.console import Terminal, console, log_to, tell_figures

studies = typer.Typer()


@studies.command()
def sweep(
    study: Annotated[
        Path,
        typer.Argument(
            click_type=SomePath(),
            metavar="STUDY.toml",
            help="A study file, or the name of a shipped study.",
            autocompletion=complete_study,
        ),
    ],
    set_: SetOption = None,
    results: Annotated[
        Path | None,
        typer.Option(click_type=SomePath(), metavar="DIR", help="The study's directory. Default: results.dir/STUDY."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. Default: one for each GPU, or as many as fit the cores.")
    ] = None,
    dry: DryOption = False,
) -> None:
    """Run all points of a study and write results.csv.

    Finished runs are skipped: after Ctrl-C or a crash, the same command continues.

    fedshield sweep cpu-sharing              a shipped study
    fedshield sweep cpu-sharing --dry-run    only its checks, points, work and time
    fedshield sweep my-study.toml --jobs 2   your own study, two runs at the same time
    """
    log_to(console)
    changes: Flat = {}
    for assignment in set_ or []:
        changes |= parse_assignment(assignment)
    if dry:
        from simulations.estimates.dry_sweep import dry_sweep

        dry_sweep(study, changes, results, jobs, console)
        return
    from simulations.studies.sweep import run_study

    run_study(study, changes, results, jobs, console)


class TableFormat(StrEnum):
    """What tables are printed as."""

    MD = "md"
    CSV = "csv"
    LATEX = "latex"


@studies.command()
def tables(
    study: Annotated[
        Path,
        typer.Argument(click_type=SomePath(), metavar="STUDY", help="A study's directory, or its name in results.dir."),
    ],
    format_: Annotated[
        TableFormat | None,
        typer.Option(
            "--format",
            help="Format of the printed tables, with nothing else; latex needs booktabs; pandas reads results.csv.",
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Figures without title and caption, for a text that has its own.")
    ] = False,
) -> None:
    """Show the tables of a study and draw its figures, as PNG, SVG and PDF. Nothing is run again.

    fedshield tables cpu-sharing             the study with this name in results.dir
    fedshield tables docs/results/cpu-sharing
    fedshield tables cpu-sharing --format latex --plain > tables.tex
    """
    from simulations.reports.formats import FORMATS
    from simulations.reports.study_tables import make_tables, write_tables

    path = find_results(study)
    sheets = make_tables(path)
    if format_ is not None:
        typer.echo(FORMATS[format_.value](sheets), nl=False)
    else:
        for sheet in sheets:
            console.print(sheet.rich(console.width))
    beside = console if format_ is None else Terminal(stderr=True)
    beside.print(f"Tables: {write_tables(path, sheets)}")
    from simulations.reports.figures.study_figures import plot_study

    tell_figures(plot_study(path, plain), beside)
