"""Commands that answer: what there is to choose from, what a configuration is, what is on the disk."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from common.attacks.threat import doubted_radius
from common.config.flat import Flat, default_config, toml_lines
from common.config.schema import parse_config
from common.errors import FedShieldError
from common.paths import cache_dir
from simulations.cli.options import FileArgument, ResultsOption, SetOption, SomePath, resolve
from simulations.terminal.console import console, log_to

answers = typer.Typer()


class Listed(StrEnum):
    """What can be listed."""

    PRESETS = "presets"
    STUDIES = "studies"
    MODELS = "models"
    ATTACKS = "attacks"
    LOSSES = "losses"
    METHODS = "methods"
    STRATEGIES = "strategies"
    DATASETS = "datasets"
    ACTIVATIONS = "activations"
    RUNS = "runs"


@answers.command(name="list")
def list_(
    kind: Annotated[Listed | None, typer.Argument(metavar="KIND", help=f"One of: {', '.join(Listed)}.")] = None,
) -> None:
    """List what can be chosen by name: presets, studies, models, attacks and so on, with a line about each.

    fedshield list                  all kinds, names alone
    fedshield list strategies
    fedshield list runs             as fedshield runs
    """
    log_to(console)
    if kind is not None and kind is Listed.RUNS:
        _show_runs([], None)
        return
    from simulations.catalogue import KINDS, described

    if kind is None:
        for name, each in KINDS.items():
            console.print(f"{name}: {', '.join(each.names())}")
        console.print("More about each: fedshield list KIND, as in fedshield list models")
        return
    found = described(kind.value)
    width = max(map(len, found)) + 2
    for name, words in found.items():
        console.print(f"{name:{width}}{words}")
    console.print(f"Use: {KINDS[kind.value].use}")


@answers.command()
def config(
    file: FileArgument = None,
    set_: SetOption = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only the keys that differ from the defaults.")] = False,
) -> None:
    """Show the configuration that a run would have, as a TOML file; what differs from the defaults is marked.

    fedshield config
    fedshield config cpu-cifar10 --changed
    fedshield config cpu-cifar10 --set seed=2 > my.toml
    """
    log_to(console)
    defaults = default_config()
    resolved = parse_config(resolve(file, set_ or [], defaults))
    chosen, attack = resolved.flat(), resolved.attack
    shown = {key: chosen[key] for key in defaults if not changed or chosen[key] != defaults[key]}
    if not shown:
        console.print("# nothing differs from the defaults")
    for line in config_lines(shown, defaults):
        console.print(line)
    if doubt := doubted_radius("attack.epsilon-255", attack.epsilon_255, attack.norm):
        console.print(f"# warning: {doubt}")


def config_lines(chosen: Flat, defaults: Flat) -> list[str]:
    """Return a TOML file, in tables, whose lines say in a comment which default they replace.

    Args:
        chosen: dotted key -> value; those of a table in turn.
        defaults: of all keys.
    """
    lines: list[str] = []
    table = ""
    for key, value in chosen.items():
        head, _, name = key.rpartition(".")
        if head != table:
            lines += [*([""] if lines else []), f"[{head}]"]
            table = head
        (line,) = toml_lines({name: value})
        (before,) = toml_lines({"default": defaults[key]})
        lines.append(line if value == defaults[key] else f"{line}  # {before}")
    return lines


@answers.command(name="runs")
def runs_(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            click_type=SomePath(),  # as typed: ./NAME is not NAME
            metavar="RUN ...",
            help="Run directories, or their names in results.dir. Default: all there.",
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--rm", help="Delete these runs from the disk.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --rm: do not ask.")] = False,
    results: ResultsOption = None,
) -> None:
    """Show the runs: finished, stopped or running, their rounds, accuracy, size and date; or delete some.

    Only run directories are deleted, with all that is in them; none of a run that goes on or is measured, and none of a
    study. With --rm a name alone means the one in results.dir or --results; give the whole path of any other.

    fedshield runs
    fedshield runs --results runs/cpu-sharing/runs     those of a study
    fedshield runs --rm first runs/second
    """
    log_to(console)
    if yes and not remove:
        raise FedShieldError("--yes: answers the question of --rm; give both, or neither")
    if remove:
        _remove(run or [], results, yes)
    else:
        _show_runs(run or [], results)


def _show_runs(runs: list[str], results: Path | None) -> None:
    from simulations.run_table import run_sheet

    sheet = run_sheet(runs, results)
    if not sheet.rows:
        console.print(f"{sheet.title}: none yet; fedshield run makes one")
        return
    console.print(sheet.rich(console.width))


def _remove(runs: list[str], results: Path | None, yes: bool) -> None:
    from simulations.run_table import checked_runs, foreign_files, remove_run, size_text, total_size

    found = checked_runs(runs, results)
    for path in found:
        others = ", ".join(foreign_files(path))
        console.print(f"{path}  {size_text(total_size(path))}" + f", with files of others: {others}" * bool(others))
    if not yes:
        typer.confirm(f"Delete {len(found)} run{'s' * (len(found) > 1)}?", abort=True)
    for path in found:
        remove_run(path)
        console.print(f"Deleted: {path}")


@answers.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete what is in the cache.")] = False,
) -> None:
    """Show where the cache of decoded images is, what is in it and how large it is.

    Everything in it is made again when it is needed. Runs that go on keep what they use.

    fedshield cache
    fedshield cache --clear
    """
    from simulations.cache_table import cache_lines, clear_cache
    from simulations.run_table import size_text

    if clear:
        console.print(f"Deleted: {size_text(clear_cache())}")
    console.print(f"Cache: {cache_dir()}")
    for line in cache_lines():
        console.print(line)
