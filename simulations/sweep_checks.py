"""Before a sweep starts: whether its directory is this study's, and whether its data is there."""

import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from common.config import RunConfig, parse_config
from common.data import data_key
from common.errors import FedShieldError, explain_os_errors
from common.flat import default_config, flatten
from server.files import read_json
from simulations.study import Point, Study
from simulations.study_gather import HINT
from simulations.study_results import finished_runs


def claim(directory: Path) -> None:
    """Make the study's directory; one that holds something else is left as it is."""
    with explain_os_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        # What a sweep that was killed as it began has left is no other's.
        present = {entry.name for entry in directory.iterdir()} - {".lock", "runs", "study.toml.partial"}
        whole = (directory / "study.toml").is_file() and (directory / "runs").is_dir()
        if present and not whole:
            raise FedShieldError(f"{directory}: holds other files than a study's; choose another --results")
        (directory / "runs").mkdir(exist_ok=True)


def check_directory(study: Study, points: Sequence[Point], directory: Path) -> None:
    """Refuse a directory with finished, or begun, runs that are not those of this study as it is now."""
    _check_command(study, directory)
    for point in points:
        _check_stored(study, directory / "runs" / point.name, point.config)
    known = {point.name for point in points}
    if others := [name for name in finished_runs(directory) if name not in known]:
        raise FedShieldError(
            f"{directory}: holds {len(others)} finished run{'s' * (len(others) > 1)} that this study has not, as "
            f"{others[0]}; choose another --results"
        )


def check_data(points: Sequence[Point]) -> None:
    """Look for each dataset once, rather than let each run fail; what can be downloaded need not be there yet."""
    for name, root, size in {(p.config.data.name, p.config.data.root, p.config.data.image_size) for p in points}:
        data_key(name, root, size)


def _begun(command: str, run: Path) -> bool:
    """Tell whether a directory holds what a run of this command has computed."""
    results = ("partition.json",) if command == "partitions" else ("summary.json", "metrics.jsonl", "checkpoint")
    return any((run / name).exists() for name in results)


def _check_command(study: Study, directory: Path) -> None:
    """Refuse a study whose runs were begun with another command."""
    path = directory / "study.toml"
    if not path.exists():
        return
    with explain_os_errors(path):
        content = path.read_bytes()
    try:
        stored = str(tomllib.loads(content.decode()).get("command", study.command))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):  # is written anew
        return
    with explain_os_errors(directory):
        begun = stored != study.command and any(_begun(stored, run) for run in (directory / "runs").iterdir())
    if begun:
        raise FedShieldError(
            f"{directory}: its runs have command = {stored!r}, the study has {study.command!r} now; choose another "
            "--results"
        )


def _check_stored(study: Study, run: Path, config: RunConfig) -> None:
    """Refuse a study that was changed under its finished, or begun, runs."""
    if not _begun(study.command, run):
        return
    if not (run / "config.json").exists():
        raise FedShieldError(f"{run}: damaged (no config.json); {HINT}")
    stored = flatten(read_json(run / "config.json", HINT))
    # A key that is newer than the run had the effect of its default.
    there = {key: stored.get(key, default) for key, default in default_config().items()}
    with suppress(FedShieldError):  # spelled as now: an earlier version may have kept "pgd:2" for "pgd:2.0"
        there = parse_config(there).flat()
    changed = [key for key, value in config.flat().items() if there.get(key) != value]
    if wrong := _harmful(changed):
        key = wrong[0]
        raise FedShieldError(
            f"{run}: was run with {key} = {there.get(key)!r}, the study has {config.flat()[key]!r} now; delete the run "
            "directory, or choose another --results"
        )


def _harmful(changed: Sequence[str]) -> Sequence[str]:
    """Return those of the changed keys that may not differ between a run and its continuation, or that are its length.

    A run may be continued for longer; a finished one of a study is not.
    """
    if not changed:
        return []
    from server.rundir import MAY_CHANGE  # which imports torch
    from server.stored import KINDS

    lengths = [kind.length for kind in KINDS.values()]
    return [key for key in changed if key in lengths or not key.startswith(MAY_CHANGE)]
