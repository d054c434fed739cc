"""What the commands take: files, presets, ``--set``, and the options that several of them share."""

import glob
import math
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from common.config.flat import Flat, Scalar, default_config, flatten, merge, near, read_toml
from common.config.schema import RunConfig, parse_config, parse_labels
from common.errors import FedShieldError, explain_os_errors
from common.paths import ROOT, whole_path
from simulations.terminal.console import Output

PRESETS = ROOT / "simulations" / "presets"
SWEEPS = PRESETS.with_name("sweeps")
_MEASURING = ("data.root", "threads")  # where the images are now, and what of the machine is used


def complete_preset(incomplete: str) -> list[str]:
    """Return the presets that begin so; where none does, the shell completes files."""
    return _stems(PRESETS, incomplete)


def complete_study(incomplete: str) -> list[str]:
    """Return the shipped studies that begin so; where none does, the shell completes files."""
    return _stems(SWEEPS, incomplete)


def complete_key(incomplete: str) -> list[str]:
    """Return the keys of the configuration that begin so."""
    return [f"{key}=" for key in default_config() if key.startswith(incomplete)]


def finite(value: float | None) -> float | None:
    """Refuse what Python takes for a number, and a range lets pass: ``nan`` is neither below nor above anything."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE.toml",
        help="What differs from the defaults: a file, or a preset's name.",
        autocompletion=complete_preset,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key; may be given again.", autocompletion=complete_key),
]
ResultsOption = Annotated[Path | None, typer.Option(help="Folder of the run directories (results.dir).")]
NameOption = Annotated[str | None, typer.Option(help="Name of the run directory (results.name).")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Tell warnings and errors alone.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout; words go to stderr.")]
ResumeOption = Annotated[
    Path | None, typer.Option(metavar="RUN_DIR", help="Continue an unfinished run; its name in results.dir will do.")
]
SuperlinkOption = Annotated[str, typer.Option(metavar="HOST:PORT", help="The SuperLink's address.")]
AuthorityOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="ca.crt of fedshield certs; without it, no TLS.")
]
WaitOption = Annotated[int, typer.Option(min=0, help="Seconds to wait for the SuperLink.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-code", help="Run Python code that has come with the run or model, as it stands there.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory, or its name in results.dir.")]


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


def find_file(file: Path, shipped: Path, advice: str) -> Path:
    """Return a file, or the shipped one of that name; a folder of that name is none.

    Args:
        file: as the user gives it.
        shipped: the folder of those that are named without ``.toml``.
        advice: what else to give, before the list of those.

    Raises:
        FedShieldError: there is neither.
    """
    path, known = whole_path(file), shipped / f"{file}.toml"
    with explain_os_errors(path):
        folder = path.is_dir()
        if path.exists() and not folder:
            return path
    if known.is_file():
        return known
    names = _stems(shipped, "")
    what = "a folder, no file" if folder else "no such file"
    raise FedShieldError(f"{path}: {what}; {advice}: {', '.join(names)}{near(str(file), names)}")


def find_results(given_path: Path) -> Path:
    """Return the directory of a study or a run from its path, or from its name where it is in the default place.

    A folder of that name which holds neither does not stand in its way.

    Raises:
        FedShieldError: there is none, and one with nearly that name.
    """
    path, default = whole_path(given_path), Path(str(default_config()["results.dir"]))
    usual = default / given_path
    with explain_os_errors(path):
        known = [entry.name for entry in default.iterdir() if entry.is_dir()] if default.is_dir() else []
        if not path.exists() and not usual.exists() and (meant := near(str(given_path), known)):
            raise FedShieldError(f"{path}: not there{meant}")
        if not path.exists() or (path.is_dir() and not _holds_results(path)):
            path = usual if _holds_results(usual) or (usual.is_dir() and not path.exists()) else path
    return whole_path(path)


def _holds_results(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "study.toml", "results.csv"))


def _known(keys: Flat, source: str) -> Flat:
    merge(default_config(), keys, source)
    return keys


def parse_assignment(text: str) -> Flat:
    """Parse ``key=value``: a TOML value, or a bare word as a string, of the type that the key wants."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise FedShieldError(f"--set {text}: write key=value, as in --set federation.rounds=20")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        parsed = value
    return flatten(
        {key: parsed if isinstance(parsed, list | dict) else _typed(parsed, value, default_config().get(key))}
    )


def _typed(parsed: Any, text: str, default: Scalar | None) -> Any:
    """Return a value as its key wants it: a name may look like a date or a number, a number like a word.

    Args:
        parsed: as TOML has it.
        text: as it was written.
        default: of the key; None where there is no such key.
    """
    if isinstance(default, str):
        return parsed if isinstance(parsed, str) else text
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower(), parsed)
    if default is not None and isinstance(parsed, str):  # such as .5 and 010, which TOML does not take
        for number in (int, float):
            with suppress(ValueError):
                return number(text)
    return parsed


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
    base = default_config()
    if resume is not None:
        from server.run_directory.reader import KINDS
        from server.run_directory.restored import resumed_config

        path = find_results(resume)
        base = resumed_config(path, KINDS[kind], options, trust_code)
        options["results.resume"] = str(path)
        if "data.root" in options:  # the run's own is told from where it was begun
            options["data.root"] = str(whole_path(str(options["data.root"])))
    return parse_config({**base, **options})


def measuring(assignments: list[str]) -> Flat:
    """Return the keys that ``--set`` changes where a run that is there is measured: it stays what it was trained as."""
    found = given(None, assignments)
    if others := sorted(found.keys() - set(_MEASURING)):
        raise FedShieldError(
            f"--set {others[0]}: the run stays as it was trained; what can be set here: {', '.join(_MEASURING)}"
        )
    return found


def output_of(quiet: bool, json: bool) -> Output:
    """Return what ``--quiet`` and ``--json`` ask for."""
    if quiet and json:
        raise FedShieldError("--quiet and --json: give one of them")
    return Output.QUIET if quiet else Output.JSON if json else Output.PLAIN


def parse_attacks(option: str, text: str) -> tuple[str, ...]:
    """Parse attacks as ``evaluate.attacks`` has them; a mistake names the option."""
    try:
        return parse_labels(text)
    except ValueError as error:
        raise FedShieldError(f"{option} {text}: {error}") from error


def parse_radii(text: str) -> tuple[float, ...]:
    """Parse ``--epsilons``: ``0,2,4`` -> ``(0.0, 2.0, 4.0)``; nothing for an empty text."""
    try:
        radii = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        radii = (-1.0,)
    if not all(0 <= radius <= 255 for radius in radii):
        raise FedShieldError(f"--epsilons {text}: write numbers from 0 to 255, in 1/255 of the pixel range: 0,2,4,8,16")
    return radii


def _stems(folder: Path, incomplete: str) -> list[str]:
    return sorted(path.stem for path in folder.glob(f"{glob.escape(incomplete)}*.toml"))
