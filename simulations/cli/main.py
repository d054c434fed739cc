"""The command line."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from click import Context
from typer.core import TyperGroup

from common.config.assignment import parse_assignment
from common.config.flat import Flat, default_config
from common.config.schema import parse_config
from common.errors import FedShieldError, explain_os_errors
from common.paths import whole_path
from common.words import visible
from server.run_directory.reader import find_results, read_config
from simulations.cli.network_commands import network
from simulations.cli.options import (
    FileArgument,
    JsonOption,
    NameOption,
    QuietOption,
    ResultsOption,
    ResumeOption,
    RunArgument,
    SetOption,
    TrustOption,
    complete_study,
    measuring,
    new_or_stored,
    output_of,
    parse_attacks,
    parse_radii,
    resolve,
)
from simulations.cli.result_commands import results as result_commands
from simulations.terminal.console import console, interrupt_once, log_to
from simulations.terminal.streams import lasting_streams


class _Commands(TyperGroup):
    """Typer would end with status 1 after Ctrl-C; the shell's own convention is 130."""

    def invoke(self, ctx: Context) -> Any:
        interrupt_once()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("fedshield: interrupted", file=sys.stderr)  # noqa: T201
            sys.exit(130)


app = typer.Typer(
    cls=_Commands,
    help=(
        "Federated adversarial training on Flower: how robust is a model that many clients train together?\n\n"
        "fedshield doctor                       check this machine\n"
        "fedshield run --name first             train ten clients, in one minute\n"
        "fedshield report runs/first --open     show the results in a browser\n"
        "fedshield COMMAND --help               more examples and all options"
    ),
    epilog="Exit status: 0 success, 1 a mistake or a failed run, 2 wrong usage, 130 Ctrl-C.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


class Engine(StrEnum):
    """Where the clients run."""

    INPROCESS = "inprocess"
    RAY = "ray"


@app.command()
def run(
    file: FileArgument = None,
    set_: SetOption = None,
    engine: Annotated[
        Engine | None, typer.Option(help="Where the clients run. Default: ray with several GPUs, otherwise inprocess.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of Ray workers; each runs one client at a time.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Use this Ray cluster (engine ray).")
    ] = None,
    results: ResultsOption = None,
    name: NameOption = None,
    resume: ResumeOption = None,
    trust_code: TrustOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train a federation and log natural and robust accuracy every round.

    FILE.toml, or a preset, contains the settings that differ from the defaults.

    fedshield run                                    the quickstart, one minute
    fedshield run cpu-cifar10 --set seed=2           a preset, with another seed
    fedshield run my.toml --engine ray --workers 4   four clients at a time
    fedshield run --resume runs/NAME                 continue after Ctrl-C or a crash
    fedshield run --json | jq 'select(.event == "round").evaluation.worst.value'
    """
    output = output_of(quiet, json)
    log_to(console, output)
    config = new_or_stored(file, set_, results, name, resume, "federation", trust_code)

    from simulations.federation import run_locally

    run_locally(config, engine and engine.value, workers, ray_address, console, output)


@app.command()
def centralized(
    file: FileArgument = None,
    set_: SetOption = None,
    results: ResultsOption = None,
    name: NameOption = None,
    resume: ResumeOption = None,
    trust_code: TrustOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train one model on all the data, without a federation, and log natural and robust accuracy every epoch.

    The configuration is the same as for `run`; the keys of federation, partition and sharing are ignored.

    fedshield centralized --set centralized.epochs=8
    fedshield centralized my.toml --set data.validation-fraction=0.1
    fedshield centralized --resume runs/NAME
    """
    output = output_of(quiet, json)
    log_to(console, output)
    config = new_or_stored(file, set_, results, name, resume, "centralized", trust_code)

    from simulations.centralized import run_centrally

    run_centrally(config, console, output)


@app.command()
def evaluate(
    run_dir: RunArgument,
    attacks: Annotated[
        str | None,
        typer.Option(help="For example fgsm,pgd-20x5,autoattack,deepfool. Default: the run's final attacks."),
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=0, help="Number of test images, balanced over the classes; 0 = all.")
    ] = None,
    epsilons: Annotated[
        str | None,
        typer.Option(metavar="0,2,4,8,16", help="Robust accuracy under PGD also at these radii, in 1/255."),
    ] = None,
    set_: SetOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Evaluate a run's model on the test set, with other attacks or more images, and check the result for plausibility.

    Attacks that an earlier or interrupted command has already measured are not repeated.

    fedshield evaluate runs/NAME
    fedshield evaluate runs/NAME --set data.root=/where/they/are/now
    fedshield evaluate runs/NAME --attacks fgsm,pgd-20x5,autoattack,deepfool --examples 0
    fedshield evaluate runs/NAME --epsilons 0,2,4,8,16
    """
    log_to(console)
    changes = measuring(set_ or [])
    if attacks is not None:
        changes["evaluate.final-attacks"] = ",".join(parse_attacks("--attacks", attacks))
    if examples is not None:
        changes["evaluate.final-examples"] = examples
    radii = parse_radii(epsilons or "")
    read_config(path := find_results(run_dir))  # what follows takes seconds to import
    from common.data.cuts import out_of
    from server.evaluation import evaluate_run
    from server.run_directory.reader import read_kind
    from simulations.cli.tables import evaluation_tables
    from simulations.reports.sheets import whole

    found = evaluate_run(path, changes, radii, trust_code)
    which = f"after {read_kind(path).unit} {found.round}, epsilon {found.config.attack.epsilon_255:g}/255"
    which += f", {out_of(found.evaluation.n, found.tests)} test images"
    console.print(f"{path}: {which}")
    for table in evaluation_tables(found.evaluation, found.record):
        console.print(whole(table, console.width))
    if found.config.evaluate.final_attacks or "curve" in found.record:
        from simulations.reports.figures.evaluation_figures import plot_evaluation

        _tell_figures(plot_evaluation(path))


@app.command()
def partitions(file: FileArgument = None, set_: SetOption = None) -> None:
    """Show how many images of each class every client has, as a table and a figure.

    fedshield partitions
    fedshield partitions cpu-cifar10 --set partition.scheme=iid
    """
    log_to(console)
    config = parse_config(resolve(file, set_ or [], default_config()))
    from common.data.server_data import describe_partition
    from common.factory import prepare_data
    from simulations.cli.tables import partition_tables
    from simulations.reports.figures.files import save
    from simulations.reports.figures.run_figures import partition_figure

    splits, division = prepare_data(config)
    described = describe_partition(splits.train, division)
    for table in partition_tables(described, console.width):
        console.print(table)
    folder = whole_path(config.results.dir)
    stem = f"partition-{config.data.name}-{config.partition.scheme}-seed{config.seed}"
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save(partition_figure(described), folder / stem)
    _tell_figures([folder / f"{stem}.png"])


@app.command()
def sweep(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY.toml",
            help="A study file, or the name of a shipped study.",
            autocompletion=complete_study,
        ),
    ],
    set_: SetOption = None,
    results: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The study's directory. Default: results.dir/STUDY.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. Default: one for each GPU, or as many as fit the cores.")
    ] = None,
) -> None:
    """Run all points of a study and write results.csv.

    Finished runs are skipped: after Ctrl-C or a crash, the same command continues.

    fedshield sweep cpu-sharing              a shipped study
    fedshield sweep my-study.toml --jobs 2   your own study, two runs at the same time
    """
    log_to(console)
    from simulations.studies.sweep import run_study

    changes: Flat = {}
    for assignment in set_ or []:
        changes |= parse_assignment(assignment)
    run_study(study, changes, results, jobs, console)


@app.command()
def tables(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study's directory, or its name in results.dir.")],
) -> None:
    """Show the tables of a study and draw its figures. Nothing is run again.

    fedshield tables cpu-sharing             the study with this name in results.dir
    fedshield tables docs/results/cpu-sharing
    """
    from simulations.reports.study_tables import make_tables, write_tables

    path = find_results(study)
    sheets = make_tables(path)
    for sheet in sheets:
        console.print(sheet.rich(console.width))
    console.print(f"Tables: {write_tables(path, sheets)}")
    from simulations.reports.figures.study_figures import plot_study

    _tell_figures(plot_study(path))


@app.command()
def doctor(file: FileArgument = None, set_: SetOption = None) -> None:
    """Check this machine: installed packages, hardware and data, how to fix what is missing, and the cost of a model.

    fedshield doctor
    fedshield doctor cifar10-noniid --set model.downsample=false
    """
    config = parse_config(resolve(file, set_ or [], default_config()))
    from simulations.doctor import examine

    if missing := examine(config, console):
        raise FedShieldError(f"doctor: {'; '.join(missing)}")


app.add_typer(result_commands)
app.add_typer(network)


def _tell_figures(paths: list[Path]) -> None:
    for path in paths:
        if path.suffix == ".png":
            console.print(f"Figure: {path} (and .svg)")


def main() -> None:
    """Entry point: a mistake that the user can mend is one line on stderr and exit status 1."""
    with lasting_streams():
        try:
            with explain_os_errors():  # also to ask whether a file is there can fail: a name may be too long
                app()
        except FedShieldError as error:
            print(f"fedshield: {visible(str(error))}", file=sys.stderr)  # noqa: T201
            sys.exit(1)
