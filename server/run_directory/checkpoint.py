"""The models that a run keeps: the last, the best on validation images, and what the optimizer needs to go on.

``server.run_directory.index`` says which they are.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from common.errors import FedShieldError
from common.files import clear_leftovers, replace_file, replace_json
from common.messages.records import State
from common.models.networks import load_state
from server.run_directory.index import LAST, PREVIOUS, named_files, read_checked, read_checkpoint, selected_checkpoint
from server.run_directory.reader import read_metrics


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
        replace_json(folder / PREVIOUS, old)
    replace_json(folder / LAST, checkpoint)
    used = {file for each in (checkpoint, old) for file, _ in named_files(each)}
    for path in folder.glob("*-*.safetensors"):
        if path.name not in used:
            path.unlink(missing_ok=True)


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


def selected_model(run_dir: Path) -> tuple[int, State]:
    """Return a run's final model, and its round.

    Raises:
        FedShieldError: no round was finished, or a file is damaged or missing.
    """
    if (named := selected_checkpoint(run_dir)) is None:
        why = "it is lost: restore it" if read_metrics(run_dir) else "no round of this run was finished"
        raise FedShieldError(f"{run_dir}: has no checkpoint; {why}")
    return int(named["round"]), load_model(run_dir, named)


def _write(path: Path, tensors: State) -> str:
    """Write tensors and return the file's SHA-256."""
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    replace_file(path, content)
    return hashlib.sha256(content).hexdigest()


def _read(path: Path, digest: str) -> State:
    try:
        state: State = load(read_checked(path, digest))
    except SafetensorError as error:
        raise FedShieldError(f"{path}: damaged ({error}); start a new run, or restore the file") from error
    return state
