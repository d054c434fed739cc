"""Weights that a run begins with instead of the network's own initial ones: ``model.weights``."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from common.config.schema import RunConfig
from common.errors import FedShieldError, explain_os_errors
from common.messages.records import State
from common.models.external import TORCHVISION, default_weights
from common.models.networks import load_state
from server.run_directory.checkpoint import selected_model
from server.run_directory.index import rounds_before, selected_checkpoint
from server.run_directory.reader import read_environment, read_kind
from server.run_directory.restored import PUBLISHED_WEIGHTS, no_weights, whole_weights

log = logging.getLogger("fedshield")


def begin_with_given(config: RunConfig, model: nn.Module) -> dict[str, Any]:
    """Put the given weights into the network of a run that is about to start, or to go on.

    Args:
        config: of the run; after its first round its checkpoint has the weights, and the given ones are not read.
        model: freshly initialized; takes the weights, all but those of a last layer of other classes.

    Returns:
        What is told of them; nothing where none are given, or none are read.

    Raises:
        FedShieldError: they are not there, are damaged, or do not fit the network; one line with the first array that
            differs.
    """
    return {} if rounds_before(config) else fit_given(config, model)


def told_of_given(config: RunConfig, told: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Log with which weights a run begins.

    Args:
        config: of the run.
        told: what ``begin_with_given`` has returned.
        run_dir: the run's.

    Returns:
        What ``environment.json`` keeps of them, under ``weights``.

    Raises:
        FedShieldError: they are not those with which this run was started.
    """
    if not told:
        return {}
    given = config.model.weights
    before = read_environment(run_dir).get("weights", {}).get("sha256", told["sha256"])
    if before != told["sha256"]:
        raise FedShieldError(
            f"model.weights = {given}: has changed since {run_dir} was started; give the same weights, or start a new "
            "run"
        )
    log.info("model.weights = %s: the run begins with these weights (SHA-256 %s)", given, told["sha256"][:16])
    if config.privacy.noise_multiplier:
        log.info("privacy: epsilon does not count what the images have told that model.weights was trained on")
    return {"weights": dict(told)}


def fit_given(config: RunConfig, model: nn.Module) -> dict[str, Any]:
    """Put the given weights into a network, and return what is told of them; nothing where none are given.

    Args:
        config: of the run.
        model: as in ``begin_with_given``.

    Raises:
        FedShieldError: they are not there, are damaged, or do not fit the network.
    """
    given = whole_weights(config).model.weights
    if not given:
        return {}
    state, told = _read(given, config.model.name)
    if anew := _fit(given, state, model):
        own = model.state_dict()[anew[0]]
        log.log(
            logging.INFO if given == PUBLISHED_WEIGHTS else logging.WARNING,
            "model.weights = %s: its last layer is made for %d classes, here there are %d: %s begin anew; give weights "
            "for the same classes if they shall not",
            *(given, len(state[anew[0]]), len(own), ", ".join(anew)),
        )
        told["anew"] = anew
    return told


def _read(given: str, name: str) -> tuple[State, dict[str, Any]]:
    """Return weights by the names of the network, and what is told of them."""
    path = Path(given)
    if given == PUBLISHED_WEIGHTS:
        state, told = default_weights(name)
    elif path.is_file():
        state, told = _read_file(path)
    elif path.is_dir():
        if (named := selected_checkpoint(path)) is None:
            raise FedShieldError(
                f"model.weights = {given}: not a run's directory, or none of its rounds was finished; give another "
                "run, or FILE.safetensors"
            )
        number, state = selected_model(path)
        told = {"from": given, "unit": read_kind(path).unit, "round": number, "sha256": named["sha256"]}
    else:
        raise no_weights(given, path)
    if name.startswith(TORCHVISION) and not all(key.startswith("1.") for key in state):
        state = {f"1.{key}": array for key, array in state.items()}  # behind the normalization
    return state, told


def _read_file(path: Path) -> tuple[State, dict[str, Any]]:
    with explain_os_errors(path):
        content = path.read_bytes()
    try:
        state: State = load(content)
    except SafetensorError as error:
        raise FedShieldError(
            f"model.weights = {path}: not a safetensors file ({error}); write it with safetensors.torch.save_file"
        ) from error
    return state, {"from": str(path), "sha256": hashlib.sha256(content).hexdigest()}


def _fit(given: str, state: Mapping[str, torch.Tensor], model: nn.Module) -> list[str]:
    """Load weights, and return the names of those that begin anew: of a last layer for other classes."""
    own = model.state_dict()
    other = [key for key in own if key not in state or state[key].shape != own[key].shape]
    other += [key for key in state if key not in own]
    anew = other if _is_head(other, own, state) else []
    if other and not anew:
        key = other[0]
        there, here = (
            f"has the shape {list(known[key].shape)}" if key in known else "is missing" for known in (state, own)
        )
        raise FedShieldError(
            f"model.weights = {given}: not of this network: {key} {there} there, and {here} in the network; give "
            "weights of the same model.name, with its width, norm and image size"
        )
    if whole := [key for key in own if own[key].is_floating_point() and not state[key].is_floating_point()]:
        raise FedShieldError(
            f"model.weights = {given}: {whole[0]} is of {state[whole[0]].dtype}, without fractions; give "
            "weights as they were trained"
        )
    if odd := next((key for key, each in state.items() if not torch.isfinite(each).all()), None):
        raise FedShieldError(f"model.weights = {given}: {odd} contains nan or infinity; give other weights")
    load_state(model, {**state, **{key: own[key] for key in anew}})
    return anew


def _is_head(keys: list[str], own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> bool:
    """Return whether arrays are of the network's last layer alone, and differ in the number of classes alone."""
    last = [*own][-1].rpartition(".")[0]
    return all(
        key.rpartition(".")[0] == last and key in own and key in state and state[key].shape[1:] == own[key].shape[1:]
        for key in keys
    )
