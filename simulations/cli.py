"""The command line."""

import sys
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from click import Context
from rich.console import Console
from typer.core import TyperGroup

from common.config import parse_config
from common.errors import FedShieldError, explain_os_errors
from common.flat import Flat, default_config, flatten, merge, read_toml
from simulations.console import log_to


class _Commands(TyperGroup):
    """Typer would end with status 1 after Ctrl-C; the shell's own convention is 130."""

    def invoke(self, ctx: Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("fedshield: interrupted", file=sys.stderr)  # noqa: T201
            sys.exit(130)


app = typer.Typer(
    cls=_Commands,
    help="Federated adversarial training on Flower: how well does a model that many parties train withstand attacks?",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
console = Console(soft_wrap=True, highlight=False)

PRESETS = Path(__file__).resolve().parent / "presets"


class Engine(StrEnum):
    """Where the clients run."""

    INPROCESS = "inprocess"
    RAY = "ray"


FileArgument = Annotated[
    Path | None,
    typer.Argument(metavar="FILE.toml", help="What differs from the defaults: a file, or a preset's name."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key; may be given again.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory.")]


@app.command()
def run(
    file: FileArgument = None,
    set_: SetOption = None,
    engine: Annotated[
        Engine | None, typer.Option(help="Where the clients run; ray where there are several GPUs, else inprocess.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Ray workers, each of which runs one client at a time.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Join this Ray cluster (engine ray).")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of the run directories (results.dir).")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run directory (results.name).")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN_DIR", help="Continue an unfinished run.")] = None,
) -> None:
    """Train a federation and log natural and robust accuracy every round.

    FILE.toml, or the name of a preset, says what differs from the defaults.

    fedshield run                                    a quickstart: one minute
    fedshield run cpu-cifar10 --set seed=2           a preset, with another seed
    fedshield run my.toml --engine ray --workers 4   four clients at a time
    fedshield run --resume runs/NAME                 go on after Ctrl-C or a crash
    """
    options: Flat = {}
    if results is not None:
        options["results.dir"] = str(results)
    if name is not None:
        options["results.name"] = name
    base = default_config()
    if resume is not None:
        from server.rundir import read_config

        base = merge(base, read_config(resume.expanduser().absolute()), str(resume))
        options["results.resume"] = str(resume)
    config = parse_config(merge(resolve(file, set_ or [], base), options, "options"))

    from simulations.session import run_locally

    run_locally(config, engine and engine.value, workers, ray_address, console)


@app.command()
def evaluate(
    run_dir: RunArgument,
    attacks: Annotated[
        str | None, typer.Option(help="Such as fgsm,pgd-20; the run's final attacks if not given.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=0, help="Test images, balanced over the classes; 0 = all.")
    ] = None,
) -> None:
    """Measure a run's last checkpoint on the test set, with other attacks or more images."""
    log_to(console)
    from server.evaluate import evaluate_run

    changes: Flat = {}
    if attacks is not None:
        changes["evaluate.final-attacks"] = attacks
    if examples is not None:
        changes["evaluate.final-examples"] = examples
    path = run_dir.expanduser().absolute()
    server_round, config, evaluation = evaluate_run(path, changes)
    console.print(f"{path}: after round {server_round}, epsilon {config.attack.epsilon_255:g}/255", markup=False)
    from simulations.tables import evaluation_table

    console.print(evaluation_table(evaluation))


@app.command()
def partitions(file: FileArgument = None, set_: SetOption = None) -> None:
    """Show how many images of each class every client has, as a table and a figure."""
    log_to(console)
    config = parse_config(resolve(file, set_ or [], default_config()))
    from common.setup import prepare_data
    from server.environment import describe_partition
    from simulations.plots import plot_partition
    from simulations.tables import partition_table

    splits, division = prepare_data(config)
    described = describe_partition(splits.train, division)
    console.print(partition_table(described))
    folder = Path(config.results.dir).expanduser().absolute()
    stem = f"partition-{config.data.name}-{config.partition.scheme}-seed{config.seed}"
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        plot_partition(described, folder / stem)
    console.print(f"Figure: {folder / stem}.png (and .svg)", markup=False)


@app.command()
def doctor() -> None:
    """Tell what is installed, which hardware and data is found, and what to do about each lack."""
    from simulations.doctor import examine

    if not examine(parse_config(default_config()), console):
        raise typer.Exit(1)


def resolve(file: Path | None, assignments: list[str], base: Flat) -> Flat:
    """Lay a file, or a preset named without ``.toml``, and then ``--set`` assignments over ``base``."""
    flat = base
    if file is not None:
        path = file.expanduser()
        preset = PRESETS / f"{file}.toml"
        if not path.exists():
            if not preset.exists():
                known = ", ".join(sorted(known.stem for known in PRESETS.glob("*.toml")))
                raise FedShieldError(
                    f"{path.absolute()}: no such file; give a TOML file, or one of the presets: {known}"
                )
            path = preset
        flat = merge(flat, read_toml(path), str(path))
    for assignment in assignments:
        flat = merge(flat, _assignment(assignment), f"--set {assignment}")
    return flat


def _assignment(text: str) -> Flat:
    """Parse ``key=value``: a TOML value, or a bare word as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise FedShieldError(f"--set {text}: write key=value, as in --set federation.rounds=20")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return flatten({key.strip(): parsed})


def main() -> None:
    """Entry point: a mistake that the user can mend is one line on stderr and exit status 1."""
    try:
        app()
    except FedShieldError as error:
        print(f"fedshield: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
