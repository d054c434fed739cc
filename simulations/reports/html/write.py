"""Writes the report of a run or a study."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import FedShieldError
from common.files import replace_file
from common.paths import whole_path
from server.run_directory.lock import is_running
from server.run_directory.reader import find_results, read_config

if TYPE_CHECKING:
    from simulations.reports.html.page import Page


_MARK = b'<meta name="generator" content="FedShield">'  # what page.html says of itself
_EVERY = 5.0  # seconds


def watch_report(run: Path, out: Path | None, told: Callable[[str], None], every: float = _EVERY) -> Path:
    """Write the report of a run again and again while it goes on, so that a browser can watch it; return its path.

    Args:
        run: as ``run_or_study`` of ``write_report``.
        out: as there.
        told: takes lines about it.
        every: seconds between two looks at the run.

    Raises:
        FedShieldError: as there; or it is a study.
    """
    path = find_results(run)
    if not (path / "config.json").exists():
        raise FedShieldError(f"{path}: --watch shows one run that goes on; give its directory")
    if _waits(path):
        told("The run has no round yet; the report is written after the first one")
        while _waits(path):
            time.sleep(every)
    target, before = write_report(path, out, _refresh(path)), b""
    told(f"Report: {target}")
    if is_running(path):
        told("It is written again after each round, and a browser reads it again; Ctrl-C ends this, not the run")
    try:
        while is_running(path):
            if (now := _state(path)) != before:
                write_report(path, out, _refresh(path))
                before = now
            time.sleep(every)
    finally:
        write_report(path, out)  # which no browser needs to read again
    told("The run goes on no more; the report is as it ended")
    return target


def _waits(path: Path) -> bool:
    """Return whether a run goes on that has nothing to show yet."""
    return is_running(path) and not (path / "metrics.jsonl").exists()


def _refresh(path: Path) -> int:
    return int(_EVERY) if is_running(path) else 0


def _state(path: Path) -> bytes:
    """Return what differs when a run has written something that its report shows."""
    files = [path / name for name in ("metrics.jsonl", "partition.json", "evaluations.jsonl")]
    return repr([file.stat().st_size if file.exists() else 0 for file in files]).encode()


def write_report(run_or_study: Path, out: Path | None = None, refresh: int = 0) -> Path:
    """Write the report as one HTML file, replacing an earlier one; return its absolute path.

    Args:
        run_or_study: its directory, or its name in ``results.dir``.
        out: where to; ``report.html`` in that directory if not given.
        refresh: seconds after which a browser reads it again; 0 for never.

    Raises:
        FedShieldError: there is neither, its files are damaged or of another version, or the report cannot be written.
    """
    path = find_results(run_or_study)
    gather = _page_of(path)
    from simulations.reports.html.page import render

    try:
        content = render(gather(path), refresh).encode()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise FedShieldError(f"{path}: not what this version writes ({what}); use the one that wrote it") from error
    target = whole_path(path / "report.html" if out is None else out)
    if target.is_dir():
        raise FedShieldError(f"--out {target}: is a directory; name a file")
    if out is not None and target.exists() and _MARK not in target.read_bytes():
        raise FedShieldError(f"--out {target}: is there, and no report; name another file")
    replace_file(target, content)
    return target


def _page_of(path: Path) -> "Callable[[Path], Page]":
    """Return what gathers the page; what it imports takes seconds, so the directory is looked at first."""
    if (path / "config.json").exists():
        read_config(path)
        from simulations.reports.html.run_page import run_page

        return run_page
    if (path / "study.toml").exists() or (path / "results.csv").exists():
        from simulations.reports.html.study_page import study_page

        return study_page
    begun = "; a run makes its directory once its data and network are checked: try again then" * (not path.exists())
    raise FedShieldError(f"{path}: neither a run nor a study: no config.json, study.toml or results.csv in it{begun}")
