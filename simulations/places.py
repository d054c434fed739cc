"""What a folder of results is: a run's, a study's, or neither."""

from pathlib import Path

from common.errors import FedShieldError
from server.run_directory.reader import is_run


def holds_study(directory: Path) -> bool:
    """Return whether a directory is one that a sweep has made."""
    return (directory / "study.toml").is_file() and (directory / "runs").is_dir()


def refuse_results(out: Path) -> None:
    """Refuse a folder of a run or a study for files of another kind, which would be deleted with it.

    Raises:
        FedShieldError: ``out`` is one.
    """
    if is_run(out) or holds_study(out):
        raise FedShieldError(f"--out {out}: holds a run or a study; name another folder")
