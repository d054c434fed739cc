"""Writes the report of a run or a study."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import FedShieldError
from common.files import replace_file
from common.paths import whole_path
from server.run_directory.reader import find_results, read_config

if TYPE_CHECKING:
    from simulations.reports.html.page import Page


def write_report(run_or_study: Path, out: Path | None = None) -> Path:
    """Write the report as one HTML file, replacing an earlier one; return its absolute path.

    Args:
        run_or_study: its directory, or its name in ``results.dir``.
        out: where to; ``report.html`` in that directory if not given.

    Raises:
        FedShieldError: there is neither, its files are damaged or of another version, or the report cannot be written.
    """
    path = find_results(run_or_study)
    gather = _page_of(path)
    from simulations.reports.html.page import render

    try:
        content = render(gather(path)).encode()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise FedShieldError(f"{path}: not what this version writes ({what}); use the one that wrote it") from error
    target = whole_path(path / "report.html" if out is None else out)
    if target.is_dir():
        raise FedShieldError(f"--out {target}: is a directory; name a file")
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
    raise FedShieldError(f"{path}: neither a run nor a study: no config.json, study.toml or results.csv in it")
