"""Commands that show the results of runs and studies."""

import webbrowser
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from server.run_directory.reader import DEPLOYED, find_results, read_config, read_kind
from simulations.cli.options import (
    RunArgument,
    RunOrStudyArgument,
    RunsArgument,
    SomePath,
    TrustOption,
)
from simulations.terminal.console import console, figures_may_fail, log_to, tell_figures

results = typer.Typer()


class Format(StrEnum):
    """What an exported model is written as."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"
    ONNX = "onnx"
    TORCHVISION = "torchvision"


@results.command()
def report(
    run_or_study: RunOrStudyArgument,
    out: Annotated[
        Path | None, typer.Option(click_type=SomePath(), metavar="FILE", help="Default: report.html in the directory.")
    ] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it again while the run goes on; the browser follows by itself.")
    ] = False,
) -> None:
    """Write a report on a run or a study: one HTML file that needs no network and can be sent to others.

    fedshield report runs/NAME --open
    fedshield report runs/NAME --watch --open               while it goes on, to its end
    fedshield report runs/cpu-sharing --out sharing.html    a study
    """
    log_to(console)
    from simulations.reports.html.write import watch_report, write_report

    path = write_report(run_or_study, out)
    if not watch:
        console.print(f"Report: {path}")
    if browse and not webbrowser.open(path.as_uri()):
        console.print("--open: no browser found here; open that file in one")
    if watch:
        watch_report(run_or_study, out, console.print)
    _draw_what_is_missing(find_results(run_or_study))


def _draw_what_is_missing(path: Path) -> None:
    """Draw the figures of a finished run of real clients: its server does not draw."""
    if not (path / "summary.json").exists() or read_kind(path) != DEPLOYED:
        return
    from simulations.reports.figures.run_figures import missing_figures, plot_run

    if missing := missing_figures(path):
        with figures_may_fail("the same command"):
            plot_run(path)
            tell_figures(missing)


@results.command()
def replay(run_dir: RunArgument) -> None:
    """Show the troubles of training that were diagnosed in each round of a run, judged again from what it stored.

    fedshield replay runs/NAME
    """
    log_to(console)
    from simulations.replay import replay as judge_again

    for line in judge_again(find_results(run_dir)):
        console.print(line)


@results.command()
def compare(
    runs: RunsArgument,
) -> None:
    """Compare runs: configuration and results, image by image where both used the same test images.

    fedshield compare runs/share0 runs/share40
    """
    log_to(console)
    for run in runs:
        read_config(find_results(run))  # what follows takes seconds to import
    from simulations.reports.compare import compare_runs

    for sheet in compare_runs(runs):
        console.print(sheet.rich(console.width))


@results.command()
def export(
    run_dir: RunArgument,
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            help="safetensors: for FedShield and RobustBench; torch: a program that needs only PyTorch; onnx; "
            "torchvision: weights with torchvision's names.",
        ),
    ] = Format.SAFETENSORS,
    out: Annotated[
        Path | None, typer.Option(click_type=SomePath(), metavar="DIR", help="Default: RUN_DIR/export.")
    ] = None,
    client: Annotated[
        str | None,
        typer.Option(
            metavar="N|global", help="Whose model, where clients have their own: of client N, or the global one."
        ),
    ] = None,
    trust_code: TrustOption = False,
) -> None:
    """Export a run's model to a file that other programs can read, with a model card.

    fedshield export runs/NAME
    fedshield export runs/NAME --format onnx --out model
    fedshield export runs/NAME --client 3
    """
    log_to(console)
    read_config(found := find_results(run_dir))  # what follows takes seconds to import
    from simulations.export.formats import export_run

    for path in export_run(found, format_.value, out, trust_code, client):
        console.print(path)
