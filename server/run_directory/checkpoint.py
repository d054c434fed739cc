"""The models that a run keeps: the last, the best on validation images, and what the optimizer needs to go on.

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from common.config.schema import RunConfig
from common.errors import FedShieldError, explain_os_errors
from common.files import clear_leftovers, read_json, replace_file, replace_json
from common.messages.records import State
from common.models.networks import load_state
from common.paths import whole_path
from server.run_directory.schema import Checkpoint, check_format

log = logging.getLogger("fedshield")

UNAVERAGED = "unaveraged"  # from which training goes on
GOOD = "good"  # the last good model of a run that is repaired, if it is another
_KEPT = ("optimizer", UNAVERAGED, GOOD, "server", "clients")  # beside the models
_LAST, _PREVIOUS = "checkpoint.json", "previous.json"


def write_checkpoint(
    run_dir: Path,
    round_or_epoch: int,
    state: State,
    validation: dict[str, Any] | None = None,
    momenta: Sequence[Tensor] = (),
    kept: Mapping[str, State] | None = None,
) -> None:
    """Write the models next to the old ones, replace the JSON that names them, then remove files that no JSON names.

    Args:
        run_dir: absolute.
        round_or_epoch: the finished one, 1 or more.
        state: its model.
        validation: figures of this model on the validation images, if it is the best so far; otherwise the best one
            before it stays.
        momenta: of SGD; empty in a federation, where they start at zero in each round.
        kept: by ``server`` and by ``clients``, the model itself by ``UNAVERAGED``, an earlier one by ``GOOD``; an empty
            one is not stored.

    Raises:
        FedShieldError: a file cannot be written; the checkpoint before is still whole.
    """
    folder = run_dir / "checkpoint"
    clear_leftovers(folder)
    old = read_checkpoint(run_dir) or {}
    model = f"model-{round_or_epoch:04}.safetensors"
    named = {"round": round_or_epoch, "model": model, "sha256": _write(folder / model, state)}
    checkpoint: dict[str, Any] = dict(named)
    optimizer = {str(place): momentum for place, momentum in enumerate(momenta)}
    for name, content in {"optimizer": optimizer, **(kept or {})}.items():
        if content:
            file = f"{name}-{round_or_epoch:04}.safetensors"
            checkpoint[name] = {"file": file, "sha256": _write(folder / file, content)}
    if validation is not None:
        checkpoint["best"] = {**named, "validation": validation}
    elif "best" in old:
        checkpoint["best"] = old["best"]
    if old:
        replace_json(folder / _PREVIOUS, old)
    replace_json(folder / _LAST, checkpoint)
    used = {file for each in (checkpoint, old) for file, _ in _named(each)}
    for path in folder.glob("*-*.safetensors"):
        if path.name not in used:
            path.unlink(missing_ok=True)


def read_checkpoint(run_dir: Path) -> dict[str, Any] | None:
    """Return what ``checkpoint.json`` holds, or None when there is no checkpoint."""
    return _read_json(run_dir / "checkpoint" / _LAST)


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
    if not (folder / _LAST).exists() and not (folder / _PREVIOUS).exists():
        return None
    try:
        return _whole(folder / _LAST)
    except FedShieldError as damage:
        try:
            previous = _whole(folder / _PREVIOUS)
        except FedShieldError:
            raise damage from None
        log.warning("%s; continuing from the one before, number %d", str(damage).partition(";")[0], previous["round"])
        replace_json(folder / _LAST, previous)
        return previous


def _whole(path: Path) -> dict[str, Any]:
    """Return what a JSON file of a checkpoint holds, once all the files that it names are checked."""
    checkpoint = _read_json(path)
    if checkpoint is None:
        raise FedShieldError(f"{path}: not found; start a new run")
    for file, digest in _named(checkpoint):
        _read_checked(path.parent / file, digest)
    return checkpoint


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    checkpoint = read_json(path, "start a new run")
    check_format(checkpoint, Checkpoint, str(path))
    return checkpoint


def _named(checkpoint: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the files that a checkpoint names, with their SHA-256."""
    models = [named for named in (checkpoint, checkpoint.get("best")) if named]
    files = [(named["model"], named["sha256"]) for named in models]
    return files + [(stored["file"], stored["sha256"]) for name in _KEPT if (stored := checkpoint.get(name))]


def load_model(run_dir: Path, checkpoint: dict[str, Any]) -> State:
    """Return the weights that a checkpoint, or its ``best``, names, once their SHA-256 is checked."""
    return _read(run_dir / "checkpoint" / checkpoint["model"], checkpoint["sha256"])


def fit_state(model: nn.Module, state: State, run_dir: Path) -> None:
    """Put a run's weights into its network.

    Args:
        model: takes the weights.
        state: of a checkpoint.
        run_dir: the run's, for messages.

    Raises:
        FedShieldError: the network, which ``config.json`` and the classes of the data decide, is another one.
    """
    try:
        load_state(model, state)
    except RuntimeError as error:
        raise FedShieldError(
            f"{run_dir}: its checkpoint belongs to another network than its config.json and classes describe; restore "
            "the files, and give the data that it was trained on, or start a new run"
        ) from error


def load_momenta(run_dir: Path, checkpoint: dict[str, Any]) -> list[Tensor]:
    """Return SGD's momentum buffers in the order of the model's parameters; none where none were stored.

    Raises:
        FedShieldError: their file is damaged or missing.
    """
    stored = checkpoint.get("optimizer")
    if stored is None:
        return []
    path = run_dir / "checkpoint" / stored["file"]
    buffers = _read(path, stored["sha256"])
    try:
        return [buffers[str(place)] for place in range(len(buffers))]
    except KeyError as error:
        raise FedShieldError(f"{path}: damaged (no momentum {error}); start a new run, or restore the file") from error


def load_kept(run_dir: Path, checkpoint: dict[str, Any], whose: str) -> State:
    """Return what was kept at the ``server`` or the ``clients``, ``UNAVERAGED`` or ``GOOD``; empty if nothing was.

    Raises:
        FedShieldError: its file is damaged or missing.
    """
    stored = checkpoint.get(whose)
    return _read(run_dir / "checkpoint" / stored["file"], stored["sha256"]) if stored else {}


def selected_checkpoint(run_dir: Path) -> dict[str, Any] | None:
    """Return ``round``, ``model`` and ``sha256`` of a run's final model; None if no round was finished.

    It is the best one on the validation images where the run has some, and the last one otherwise.
    """
    checkpoint = read_checkpoint(run_dir)
    return checkpoint and checkpoint.get("best", checkpoint)


def selected_model(run_dir: Path) -> tuple[int, State]:
    """Return a run's final model, and its round.

    Raises:
        FedShieldError: no round was finished, or a file is damaged or missing.
    """
    if (named := selected_checkpoint(run_dir)) is None:
        raise FedShieldError(f"{run_dir}: has no checkpoint; no round of this run was finished")
    return int(named["round"]), load_model(run_dir, named)


def _write(path: Path, tensors: State) -> str:
    """Write tensors and return the file's SHA-256."""
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    replace_file(path, content)
    return hashlib.sha256(content).hexdigest()


def _read(path: Path, digest: str) -> State:
    try:
        state: State = load(_read_checked(path, digest))
    except SafetensorError as error:
        raise FedShieldError(f"{path}: damaged ({error}); start a new run, or restore the file") from error
    return state


def _read_checked(path: Path, digest: str) -> bytes:
    with explain_os_errors(path):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise FedShieldError(f"{path}: damaged (wrong SHA-256); start a new run, or restore the file")
    return content
