"""Which models a run keeps, without the models: commands that only show results need not import torch.

``checkpoint/checkpoint.json`` names the files and their SHA-256, and is replaced last; ``previous.json`` is the one
before it, whose files stay too, in case the disk damages the last:

    {"round": 3, "model": "model-0003.safetensors", "sha256": "...",
     "optimizer": {"file": "optimizer-0003.safetensors", "sha256": "..."},      centralized training only
     "unaveraged": {"file": "unaveraged-0003.safetensors", "sha256": "..."},    where "model" is an average over rounds
     "server": {"file": "server-0003.safetensors", "sha256": "..."},            what the federated method keeps there
     "clients": {"file": "clients-0003.safetensors", "sha256": "..."},          and at the clients of a simulation
     "best": {"round": 2, "model": "model-0002.safetensors", "sha256": "...",   only with a validation split
              "validation": {"n": 40, "natural": {...}, "robust": {...}, "worst": {...}}}}
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

from common.config.schema import RunConfig
from common.errors import FedShieldError, explain_os_errors
from common.files import read_json, replace_json
from common.paths import whole_path
from server.run_directory.schema import Checkpoint, check_format

log = logging.getLogger("fedshield")

UNAVERAGED = "unaveraged"  # from which training goes on
GOOD = "good"  # the last good model of a run that is repaired, if it is another
_KEPT = ("optimizer", UNAVERAGED, GOOD, "server", "clients")  # beside the models
LAST, PREVIOUS = "checkpoint.json", "previous.json"


def read_checkpoint(run_dir: Path) -> dict[str, Any] | None:
    """Return what ``checkpoint.json`` holds, or None when there is no checkpoint."""
    return _read_json(run_dir / "checkpoint" / LAST)


def count_completed(run_dir: Path) -> int:
    """Return how many rounds, or epochs, a run has finished, as its checkpoint says; 0 where that is damaged."""
    try:
        return int((read_checkpoint(run_dir) or {"round": 0})["round"])
    except FedShieldError:  # whoever resumes the run reports it, or resumes from the checkpoint before
        return 0


def rounds_before(config: RunConfig) -> int:
    """Return how many rounds, or epochs, an earlier part of this run has finished."""
    resumed = config.results.resume
    return count_completed(whole_path(resumed)) if resumed else 0


def restore_checkpoint(run_dir: Path) -> dict[str, Any] | None:
    """Return the last checkpoint that is whole, and name it in ``checkpoint.json``; None when there is none at all.

    Raises:
        FedShieldError: what is wrong with the last one, when the one before it is damaged too, or not there.
    """
    folder = run_dir / "checkpoint"
    if not (folder / LAST).exists() and not (folder / PREVIOUS).exists():
        return None
    try:
        return _whole(folder / LAST)
    except FedShieldError as damage:
        try:
            previous = _whole(folder / PREVIOUS)
        except FedShieldError:
            raise damage from None
        log.warning("%s; continuing from the one before, number %d", str(damage).partition(";")[0], previous["round"])
        replace_json(folder / LAST, previous)
        return previous


def _whole(path: Path) -> dict[str, Any]:
    """Return what a JSON file of a checkpoint holds, once all the files that it names are checked."""
    checkpoint = _read_json(path)
    if checkpoint is None:
        raise FedShieldError(f"{path}: not found; start a new run")
    for file, digest in named_files(checkpoint):
        read_checked(path.parent / file, digest)
    return checkpoint


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    checkpoint = read_json(path, "start a new run")
    check_format(checkpoint, Checkpoint, str(path))
    return checkpoint


def named_files(checkpoint: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the files that a checkpoint names, with their SHA-256."""
    models = [named for named in (checkpoint, checkpoint.get("best")) if named]
    files = [(named["model"], named["sha256"]) for named in models]
    return files + [(stored["file"], stored["sha256"]) for name in _KEPT if (stored := checkpoint.get(name))]


def selected_checkpoint(run_dir: Path) -> dict[str, Any] | None:
    """Return ``round``, ``model`` and ``sha256`` of a run's final model; None if no round was finished.

    It is the best one on the validation images where the run has some, and the last one otherwise.
    """
    checkpoint = read_checkpoint(run_dir)
    return checkpoint and checkpoint.get("best", checkpoint)


def read_checked(path: Path, digest: str) -> bytes:
    """Return the content of a file that a checkpoint names.

    Raises:
        FedShieldError: it is missing, or its SHA-256 is another one.
    """
    with explain_os_errors(path):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise FedShieldError(f"{path}: damaged (wrong SHA-256); start a new run, or restore the file")
    return content
