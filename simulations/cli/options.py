"""What the commands take: files, presets, ``--set``, and the options that several of them share."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from common.config.assignment import parse_assignment
from common.config.flat import Flat, default_config, merge, read_toml
from common.config.schema import RunConfig, parse_config
from common.config.values import parse_labels
from common.errors import FedShieldError
from common.paths import whole_path
from common.words import near
from simulations.shipped import PRESETS, SWEEPS, find_file, names_in
from simulations.terminal.console import Output

# Where the images are now, what of the machine is used, how a randomized model is attacked; and within what.
OF_MEASURING = ("data.root", "threads", "evaluate.eot")
_MEASURING = (
    *OF_MEASURING,
    *("attack.norm", "attack.epsilon-255", "evaluate.step-255"),
)


def complete_preset(incomplete: str) -> list[str]:
    """Return the presets that begin with these characters; if none does, the shell completes files."""
    return names_in(PRESETS, incomplete)


def complete_study(incomplete: str) -> list[str]:
    """Return the shipped studies that begin with these characters; if none does, the shell completes files."""
    return names_in(SWEEPS, incomplete)


def complete_key(incomplete: str) -> list[str]:
    """Return the keys of the configuration that begin with these characters."""
    return [f"{key}=" for key in default_config() if key.startswith(incomplete)]


def finite(value: float | None) -> float | None:
    """Refuse ``nan`` and infinity: Python parses them as numbers, and the option's range lets ``nan`` pass."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


class SomePath(click.Path):
    """A path that is not empty: an empty one, as of a variable that is not set, would be the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path that is given."""
        if value == "":
            self.fail("is empty; give the path", param, ctx)
        return super().convert(value, param, ctx)


FileArgument = Annotated[
    Path | None,
    typer.Argument(
        click_type=SomePath(),
        metavar="FILE.toml",
        help="Settings that differ from the defaults: a file, or the name of a preset.",
        autocompletion=complete_preset,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key; can be repeated.", autocompletion=complete_key),
]
ResultsOption = Annotated[
    Path | None, typer.Option(click_type=SomePath(), help="Folder for the run directories (results.dir).")
]
NameOption = Annotated[str | None, typer.Option(help="Name of the run directory (results.name).")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Show only warnings and errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout; other text on stderr.")]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Only check everything, and estimate work, time and memory; write nothing.")
]
ResumeOption = Annotated[
    Path | None,
    typer.Option(click_type=SomePath(), metavar="RUN_DIR", help="Continue this unfinished run (directory or name)."),
]
SuperlinkOption = Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the SuperLink.")]
AuthorityOption = Annotated[
    Path | None,
    typer.Option(click_type=SomePath(), metavar="FILE", help="ca.crt from fedshield certs. Without it: no TLS."),
]
WaitOption = Annotated[int, typer.Option(min=0, help="How long to wait for the SuperLink, in seconds.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-code", help="Allow Python code that came with the run or model to run.")
]
RunArgument = Annotated[
    Path, typer.Argument(click_type=SomePath(), metavar="RUN_DIR", help="A run directory, or its name in results.dir.")
]

RunsArgument = Annotated[
    list[Path],
    typer.Argument(
        click_type=SomePath(), metavar="RUN RUN ...", help="Run directories, or their names in results.dir."
    ),
]
RunOrStudyArgument = Annotated[
    Path,
    typer.Argument(click_type=SomePath(), metavar="RUN_OR_STUDY", help="Its directory, or its name in results.dir."),
]


def resolve(file: Path | None, assignments: list[str], base: Flat) -> Flat:
    """Lay a file, or a preset named without ``.toml``, and then ``--set`` assignments over ``base``."""
    return {**base, **given(file, assignments)}


def given(file: Path | None, assignments: list[str]) -> Flat:
    """Return the keys that a file, or a preset named without ``.toml``, and ``--set`` assignments set."""
    found: Flat = {}
    if file is not None:
        path = find_file(file, PRESETS, "give a TOML file, or one of the presets")
        found |= _known(read_toml(path), str(path))
    for assignment in assignments:
        found |= _known(parse_assignment(assignment), f"--set {assignment}")
    return found


def _known(keys: Flat, source: str) -> Flat:
    merge(default_config(), keys, source)
    return keys


def new_or_stored(
    file: Path | None,
    set_: list[str] | None,
    results: Path | None,
    name: str | None,
    resume: Path | None,
    kind: str,
    trust_code: bool = False,
) -> RunConfig:
    """Return the configuration of a new run, or of one to be continued, which must be of this kind."""
    options = given(file, set_ or [])
    if results is not None:
        options["results.dir"] = str(results)
    if name == "":
        raise FedShieldError("--name '': is empty; give the name of a folder, or leave --name out")
    if name is not None:
        options["results.name"] = name
    return settled(options, resume, kind, trust_code)


def settled(options: Flat, resume: Path | None, kind: str, trust_code: bool = False) -> RunConfig:
    """Return the configuration of a new run, or of one to be continued.

    Args:
        options: keys that are given.
        resume: the run to continue, or its name.
        kind: what it must be; a key of ``KINDS``.
        trust_code: run code of the run that has not been run on this machine before.

    Raises:
        FedShieldError: a value is not allowed, or there is no such run.
    """
    base = default_config()
    if resume is not None:
        from server.run_directory.reader import KINDS, find_results
        from server.run_directory.restored import ROOTS, resumed_config

        path = find_results(resume)
        if (name := options.get("results.name")) and name != path.name:
            raise FedShieldError(f"results.name = {name}: a resumed run stays where it is: {path}; leave it out")
        base = resumed_config(path, KINDS[kind], options, trust_code)
        folder = str(options.get("results.dir", ""))
        same = folder in ("", base["results.dir"]) or whole_path(folder).resolve() == path.parent.resolve()
        if not same:
            raise FedShieldError(f"results.dir = {folder}: a resumed run stays where it is: {path}; leave it out")
        options = {**options, "results.resume": str(path)}
        for key in ROOTS:  # the run's own are relative to where it was started
            if options.get(key):
                options[key] = str(whole_path(str(options[key])))
    return parse_config({**base, **options})


def measuring(assignments: list[str], keys: Sequence[str] = _MEASURING) -> Flat:
    """Return the keys that ``--set`` changes when a run is measured; those that it was trained with cannot change."""
    return only_measuring(given(None, assignments), keys, "--set ")


def only_measuring(found: Flat, keys: Sequence[str] = _MEASURING, source: str = "") -> Flat:
    """Return keys that change how a run is measured; others are refused in a line that begins with ``source``."""
    if others := sorted(found.keys() - set(keys)):
        raise FedShieldError(
            f"{source}{others[0]}: the run stays as it was trained; what can be set here: {', '.join(keys)}"
        )
    return found


def output_of(quiet: bool, json: bool, dry: bool = False) -> Output:
    """Return what ``--quiet`` and ``--json`` ask for; a dry run has lines for people alone."""
    if quiet and json:
        raise FedShieldError("--quiet and --json: give one of them")
    if dry and (quiet or json):
        raise FedShieldError(f"--dry-run and --{'quiet' if quiet else 'json'}: give one of them")
    return Output.QUIET if quiet else Output.JSON if json else Output.PLAIN


def parse_attacks(option: str, text: str) -> tuple[str, ...]:
    """Parse attacks as ``evaluate.attacks`` has them; a mistake names the option."""
    try:
        return parse_labels(text)
    except ValueError as error:
        raise FedShieldError(f"{option} {text}: {error}") from error


def parse_corruptions(text: str) -> tuple[str, ...]:
    """Parse ``--corruptions``: ``all``, or some kinds."""
    from common.evaluation.corruptions import KINDS

    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise FedShieldError(f"--corruptions: names none; write all, or some of {', '.join(KINDS)}")
    if "all" in names:
        return tuple(KINDS)
    if unknown := [name for name in names if name not in KINDS]:
        meant = near(unknown[0], list(KINDS))
        raise FedShieldError(
            f"--corruptions {text}: {unknown[0]} is not known; write all, or some of {', '.join(KINDS)}{meant}"
        )
    return tuple(names)


def parse_radii(text: str) -> tuple[float, ...]:
    """Parse ``--epsilons``: ``0,2,4`` -> ``(0.0, 2.0, 4.0)``."""
    try:
        radii = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        radii = (-1.0,)
    if not radii or not all(0 <= radius <= 100_000 for radius in radii):
        raise FedShieldError(
            f"--epsilons {text or '(none)'}: write numbers from 0 to 255 (more in l2), in 1/255 of the pixel range: "
            "0,2,4,8,16"
        )
    return radii


def parse_clients(text: str) -> list[int]:
    """Return the numbers of ``--clients``; none for all of them.

    Raises:
        FedShieldError: it is neither a list of numbers nor ``all``.
    """
    if text == "all":
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise FedShieldError(f"--clients {text}: give all, or numbers of clients as in 0,3,5")
    return [int(part) for part in parts]
