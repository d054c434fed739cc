"""Commands that train and measure one model, and tell what a machine has."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from common.attacks.threat import radius
from common.config.flat import default_config
from common.config.schema import parse_config
from common.errors import FedShieldError, explain_os_errors
from common.paths import whole_path
from common.words import as_file_name
from server.run_directory.reader import CENTRALIZED, FEDERATION, find_results, read_config, read_kind
from simulations.cli.options import (
    DryOption,
    FileArgument,
    JsonOption,
    NameOption,
    QuietOption,
    ResultsOption,
    ResumeOption,
    RunArgument,
    SetOption,
    SomePath,
    TrustOption,
    measuring,
    new_or_stored,
    output_of,
    parse_attacks,
    parse_corruptions,
    parse_radii,
    resolve,
)
from simulations.terminal.console import console, figures_may_fail, log_to, tell_figures

runs = typer.Typer()
machine = typer.Typer()  # apart: the help names it after the commands of studies


class Engine(StrEnum):
    """Where the clients run."""

    INPROCESS = "inprocess"
    PROCESSES = "processes"
    RAY = "ray"


@runs.command()
def run(
    file: FileArgument = None,
    set_: SetOption = None,
    engine: Annotated[
        Engine | None,
        typer.Option(
            help="Where the clients run. Default: ray with several GPUs; processes without a GPU, if threads is not 0 "
            "and the cores are enough for several clients; otherwise inprocess."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of workers (processes, ray); each runs one client at a time.")
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
    dry: DryOption = False,
) -> None:
    """Train a federation and log natural and robust accuracy every round.

    FILE.toml, or a preset, contains the settings that differ from the defaults.

    fedshield run                                    the quickstart, a minute
    fedshield run cpu-cifar10 --set seed=2           a preset, with another seed
    fedshield run my.toml --set threads=1            as many clients at a time as there are cores
    fedshield run --resume runs/NAME                 continue after Ctrl-C or a crash
    fedshield run --json | jq 'select(.event == "round").evaluation.worst.value'
    """
    output = output_of(quiet, json, dry)
    log_to(console, output)
    config = new_or_stored(file, set_, results, name, resume, "federation", trust_code)
    if dry:
        from simulations.estimates.dry_run import dry_run

        dry_run(config, FEDERATION, console, engine and engine.value, workers, ray_address)
        return
    from simulations.federation import run_locally

    run_locally(config, engine and engine.value, workers, ray_address, console, output)


@runs.command()
def centralized(
    file: FileArgument = None,
    set_: SetOption = None,
    results: ResultsOption = None,
    name: NameOption = None,
    resume: ResumeOption = None,
    trust_code: TrustOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
    dry: DryOption = False,
) -> None:
    """Train one model on all the data, without a federation, and log natural and robust accuracy every epoch.

    The configuration is the same as for `run`; the keys of federation, partition and sharing are ignored.

    fedshield centralized --set centralized.epochs=8
    fedshield centralized my.toml --set data.validation-fraction=0.1
    fedshield centralized --resume runs/NAME
    """
    output = output_of(quiet, json, dry)
    log_to(console, output)
    config = new_or_stored(file, set_, results, name, resume, "centralized", trust_code)
    if dry:
        from simulations.estimates.dry_run import dry_run

        dry_run(config, CENTRALIZED, console)
        return
    from simulations.centralized import run_centrally

    run_centrally(config, console, output)


@runs.command()
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
        typer.Option(
            metavar="0,2,4,8,16", help="Robust accuracy under PGD also at these radii, in 1/255, in attack.norm."
        ),
    ] = None,
    corruptions: Annotated[
        str | None,
        typer.Option(
            metavar="all|KIND,...",
            help="Accuracy also on images with noise, blur and other common corruptions: all, or for example "
            "gaussian-noise,defocus-blur,jpeg.",
        ),
    ] = None,
    from_: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            click_type=SomePath(),
            metavar="RUN_DIR",
            help="Make the attacks' examples also on this run's model, and try them here; can be repeated.",
        ),
    ] = None,
    personal: Annotated[
        bool,
        typer.Option("--personal", help="Measure the clients' own models too, if the run's method has made such."),
    ] = False,
    set_: SetOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Evaluate a run's model on the test set, with other attacks or more images, and check the result for plausibility.

    Attacks that an earlier or interrupted command has already measured are not repeated.

    fedshield evaluate runs/NAME
    fedshield evaluate runs/NAME --set data.root=/where/they/are/now
    fedshield evaluate runs/NAME --attacks fgsm,pgd-20x5,autoattack,deepfool --examples 0
    fedshield evaluate runs/NAME --epsilons 0,2,4,8,16
    fedshield evaluate runs/NAME --corruptions all
    fedshield evaluate runs/NAME --attacks pgd-20 --from runs/OTHER
    fedshield evaluate runs/NAME --personal
    """
    log_to(console)
    changes = measuring(set_ or [])
    if attacks is not None:
        changes["evaluate.final-attacks"] = ",".join(parse_attacks("--attacks", attacks))
    if examples is not None:
        changes["evaluate.final-examples"] = examples
    radii = () if epsilons is None else parse_radii(epsilons)
    kinds = () if corruptions is None else parse_corruptions(corruptions)
    path, *others = (find_results(run) for run in (run_dir, *(from_ or ())))
    for place in (path, *others):
        read_config(place)  # what follows takes seconds to import
    from common.data.cuts import out_of
    from common.evaluation.personal import tell_personal
    from server.evaluation import evaluate_run
    from simulations.cli.tables import evaluation_tables, headline_lines
    from simulations.reports.beside import corruption_sheet
    from simulations.reports.headline import read_figures
    from simulations.reports.sheets import whole
    from simulations.terminal.evaluation_view import EvaluationView, planned

    parts = planned(path, changes, 1 + len(others), len(radii), kinds)
    with EvaluationView(console, parts, path / "evaluations"):
        found = evaluate_run(path, changes, radii, trust_code, kinds, others, personal)
    attack = found.config.attack
    which = f"after {read_kind(path).unit} {found.round}, epsilon {radius(attack.epsilon_255, attack.norm)}"
    which += f", {out_of(found.evaluation.n, found.tests)} test images"
    console.print(f"{path}: {which}")
    for table in evaluation_tables(found.evaluation, found.record):
        console.print(whole(table, console.width))
    if sheet := corruption_sheet(found.record):
        console.print(sheet.rich(console.width))
    for line in (*tell_personal(found.record.get("personal", {})), *headline_lines(read_figures(path))):
        console.print(line)
    if count := len(found.record["warnings"]):
        console.print(f"Warnings of this evaluation: {count}, above its tables; read them before you trust its figures")
    if found.config.evaluate.final_attacks or "curve" in found.record:
        _draw_evaluation(path)


def _draw_evaluation(path: Path) -> None:
    with figures_may_fail("the same command"):
        from simulations.reports.figures.evaluation_figures import plot_evaluation

        tell_figures(plot_evaluation(path))


@runs.command()
def partitions(file: FileArgument = None, set_: SetOption = None) -> None:
    """Show how many images of each class every client has, as a table and a figure.

    fedshield partitions
    fedshield partitions cpu-cifar10 --set partition.scheme=iid
    """
    log_to(console)
    config = parse_config(resolve(file, set_ or [], default_config()))
    from common.data.server_data import describe_partition
    from common.factory import prepare_data
    from server.notices import tell_rare_classes
    from server.unread import tell_unread
    from simulations.cli.tables import partition_tables
    from simulations.reports.figures.files import save
    from simulations.reports.figures.run_figures import partition_figure

    splits, division = prepare_data(config)
    described = describe_partition(splits.train, division)
    for table in partition_tables(described, console.width):
        console.print(table)
    tell_rare_classes(described, config)
    tell_unread(config)
    folder = whole_path(config.results.dir)
    stem = f"partition-{as_file_name(config.data.name)}-{config.partition.scheme}-seed{config.seed}"
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save(partition_figure(described), folder / stem)
    tell_figures([folder / f"{stem}.png"])


@machine.command()
def doctor(file: FileArgument = None, set_: SetOption = None) -> None:
    """Check this machine: installed packages, hardware and data, how to fix what is missing, and the cost of a model.

    fedshield doctor
    fedshield doctor cifar10-noniid --set model.downsample=false
    """
    config = parse_config(resolve(file, set_ or [], default_config()))
    from simulations.doctor import examine

    if missing := examine(config, console):
        raise FedShieldError(f"doctor: {'; '.join(missing)}")
