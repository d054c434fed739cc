"""``fedshield runs``: a table of the runs in a folder, and the removal of some."""

import os
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from common.config.flat import default_config
from common.errors import FedShieldError, explain_os_errors
from common.paths import whole_path
from server.run_directory.lock import is_running, locked, refuse_measured
from server.run_directory.opening import BEGUN
from server.run_directory.reader import (
    find_results,
    is_run,
    parse_stored,
    read_config,
    read_kind,
    read_metrics,
    read_summary,
)
from simulations.places import holds_study
from simulations.reports.accuracy import share
from simulations.reports.headline import last_round, read_headline
from simulations.reports.sheets import Sheet
from simulations.studies.gather import is_finished
from simulations.studies.study import load_study

_HEADER = ("run", "state", "done", "natural %", "robust %", "size", "last written")
_OF_A_RUN = ("config.json", "environment.json")  # written before the first round
_WRITTEN = frozenset(
    (
        *(*BEGUN, ".lock", "metrics.jsonl", "checkpoint", "summary.json"),
        *("evaluations.jsonl", "evaluations", "figures", "privacy.json", "export", "report.html"),
    )
)
_ROBUST = "robust: the worst case over all kept evaluations of the run's model, as in its report"


def run_sheet(given: Sequence[str], results: Path | None) -> Sheet:
    """Return a table of runs and studies, the last written one first.

    Args:
        given: which, as typed; none for all in a folder.
        results: that folder; None = ``results.dir``.

    Raises:
        FedShieldError: one that is given is not there.
    """
    folder = whole_path(results or Path(str(default_config()["results.dir"])))
    if given:
        paths, title = [_there(find_results(_place(run, folder) if results else Path(run))) for run in given], "Runs"
    else:
        if results and not folder.exists():
            raise FedShieldError(f"--results {results}: no folder {folder}; fedshield runs shows those in results.dir")
        paths, title = _in_folder(folder), f"Runs in {folder}"
    rows = [_row(path) for path in sorted(paths, key=_written, reverse=True)]
    return Sheet(title, _HEADER, rows, [_ROBUST], 3)


def _in_folder(folder: Path) -> list[Path]:
    with explain_os_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise FedShieldError(f"{folder}: a file; give the folder with the runs")
        entries = list(folder.iterdir()) if folder.is_dir() else []
    return [path for path in entries if is_run(path) or holds_study(path)]


def _there(path: Path) -> Path:
    if not (is_run(path) or holds_study(path)):
        raise FedShieldError(f"{path}: not a run's directory, nor a study's; fedshield runs shows those that are there")
    return path


def _written(path: Path) -> float:
    """Return when a run or study last wrote its results, in seconds since 1970."""
    names = ("config.json", "metrics.jsonl", "summary.json", "evaluations.jsonl", "study.toml", "results.csv")
    return max((file.stat().st_mtime for name in names if (file := path / name).exists()), default=0.0)


def _row(path: Path) -> list[str]:
    date = f"{datetime.fromtimestamp(_written(path)):%Y-%m-%d %H:%M}"
    end = [size_text(total_size(path)), date]
    if holds_study(path):
        return [path.name, "study", _counted(path), "–", "–", *end]
    try:
        return [path.name, *_told(path), *end]
    except FedShieldError as error:
        return [path.name, f"damaged: {error}", "–", "–", "–", *end]


def _counted(directory: Path) -> str:
    """Return how many of a study's runs are finished, and of how many, where its file can be read."""
    runs = list((directory / "runs").iterdir())
    try:
        study = load_study(directory / "study.toml")
    except FedShieldError:
        return f"{sum((run / 'summary.json').exists() for run in runs)} runs"
    return f"{sum(is_finished(study, run) for run in runs)} of {study.planned} runs"


def _told(path: Path) -> list[str]:
    """Return state, rounds and accuracies of a run."""
    config, kind = parse_stored(path, read_config(path)), read_kind(path)
    done, total = last_round(read_metrics(path)), kind.total(config)
    state = "finished" if read_summary(path) else "running" if is_running(path) else "stopped"
    figures = read_headline(path).figures
    natural = share(figures["natural"]["value"]) if figures else "–"
    robust = share(figures["worst"]["value"]) if figures.get("robust") else "–"
    return [state, f"{done} of {total} {kind.unit}s", natural, robust]


def checked_runs(given: Sequence[str], results: Path | None) -> list[Path]:
    """Return the directories of runs that may be removed.

    Args:
        given: which, as typed; a name alone means the one in ``results``, even if the working directory has such a
            folder too.
        results: the folder of runs; None = ``results.dir``.

    Raises:
        FedShieldError: none is given; or one is not there, is a link, no run's directory or a study's, goes on, or is
            measured.
    """
    if not given:
        raise FedShieldError("--rm: names no run; give one or more, as in fedshield runs --rm first")
    folder = results or Path(str(default_config()["results.dir"]))
    found = list(dict.fromkeys(find_results(_place(run, folder)) for run in given))
    for path in found:
        if path.is_symlink():
            raise FedShieldError(f"{path}: a link to {os.readlink(path)}; give that directory itself")
        if not is_run(path):
            what = "a study's directory" if holds_study(path) else "not a run's directory"
            raise FedShieldError(f"{path}: {what}; --rm deletes run directories alone, so remove it yourself")
        if holds_study(path.parent.parent):
            raise FedShieldError(
                f"{path}: is part of a study, whose results.csv would keep its row; remove it yourself"
            )
        if is_running(path):
            with locked(path):
                pass
        refuse_measured(path)
    return found


def foreign_files(path: Path) -> list[str]:
    """Return the names of what FedShield has not put into a run's directory."""
    return sorted(entry.name for entry in path.iterdir() if entry.name not in _WRITTEN)


def _place(run: str, folder: Path) -> Path:
    """Return what names a run unmistakably: a name alone is in the folder of runs, and ``./NAME`` is not."""
    return whole_path(run if os.sep in run or run.startswith("~") else folder / run)


def remove_run(path: Path) -> None:
    """Delete a run's directory, while no other process can begin to write to it.

    Raises:
        FedShieldError: it goes on, is measured, or cannot be deleted.
    """
    with explain_os_errors(path), locked(path):
        refuse_measured(path)
        # What makes it a run goes last: a deletion that is interrupted can be repeated.
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name not in _OF_A_RUN:
                entry.unlink()
        shutil.rmtree(path)


def total_size(path: Path) -> int:
    """Return the bytes of all files below a folder, a file with two names once for each."""
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                size += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # a run that goes on replaces its files
                continue
    return size


def size_text(size: float) -> str:
    """``12.3 MB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
