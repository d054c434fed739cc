"""Commands that show what runs and studies have left."""

import webbrowser
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from common.errors import FedShieldError
from common.paths import whole_path
from server.run_directory.reader import find_results
from simulations.cli.options import RunArgument, TrustOption, finite, parse_attacks
from simulations.terminal.console import console, log_to

results = typer.Typer()


class Format(StrEnum):
    """What an exported model is written as."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"
    ONNX = "onnx"
    TORCHVISION = "torchvision"


@results.command()
def report(
    run_or_study: Annotated[
        Path, typer.Argument(metavar="RUN_OR_STUDY", help="Its directory, or its name in results.dir.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="report.html in the directory if not given.")] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write one HTML file about a run or a study: it needs no network, and can be sent to a colleague.

    fedshield report runs/NAME --open
    fedshield report runs/cpu-sharing --out sharing.html    a study
    """
    log_to(console)
    from simulations.reports.html.write import write_report

    path = write_report(run_or_study, out)
    console.print(f"Report: {path}")
    if browse and not webbrowser.open(path.as_uri()):
        console.print("--open: no browser found here; open that file in one")


@results.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN ...", help="Run directories, or their names in results.dir.")
    ],
) -> None:
    """Show what differs between runs, in configuration and in result, on the same test images where that can be told.

    fedshield compare runs/share0 runs/share40
    """
    log_to(console)
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
            help="safetensors: for FedShield and RobustBench; torch: a program that needs PyTorch alone; onnx; "
            "torchvision: the weights as torchvision's own networks name them.",
        ),
    ] = Format.SAFETENSORS,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="RUN_DIR/export if not given.")] = None,
    trust_code: TrustOption = False,
) -> None:
    """Write a run's model in a file that other programs read, with a card that says what it is.

    fedshield export runs/NAME
    fedshield export runs/NAME --format onnx --out model
    """
    log_to(console)
    from simulations.export.formats import export_run

    for path in export_run(find_results(run_dir), format_.value, out, trust_code):
        console.print(path)


@results.command()
def attack(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A run directory, or its name in results.dir, or a model.safetensors of fedshield export.",
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE ...", help="Pictures, of any size.")],
    attack_: Annotated[str, typer.Option("--attack", help="As in evaluate.attacks.")] = "pgd-20",
    epsilon: Annotated[
        float | None,
        typer.Option(min=0, max=255, callback=finite, help="Linf radius, in 1/255; 8 where the attack takes one."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="The pictures' class; else the name of their folder, or what the model takes them for."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the attacked pictures go.")] = Path("attacked"),
    trust_code: TrustOption = False,
) -> None:
    """Show what an attack does to pictures of your own.

    fedshield attack runs/NAME cat.jpg dog.png
    fedshield attack model/model.safetensors pictures/cat/*.jpg --attack autoattack --epsilon 4
    """
    log_to(console)
    from simulations.attack_images import attack_pictures, table, write_pictures
    from simulations.reports.sheets import whole

    if len(names := parse_attacks("--attack", attack_)) != 1:
        raise FedShieldError(f"--attack {attack_}: give one attack, as in --attack pgd-20x5")
    (name,) = names
    found = attack_pictures(find_results(checkpoint), images, name, epsilon, label, trust_code=trust_code)
    console.print(whole(table(found), console.width, names=4))
    for path in write_pictures(found, name, whole_path(out)):
        console.print(path)
