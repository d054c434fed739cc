"""From what a call names to the configuration of a run; a mistake is one line, as on the command line."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.arguments import check_flags, path_of
from common.config.flat import Flat, default_config
from common.config.schema import RunConfig
from common.data.datasets import DATASETS
from common.errors import FedShieldError
from common.words import near
from fedshield.folders import write_folder
from fedshield.given import reference_to
from simulations.cli.options import given, settled

# The arguments that are keys, and those whose objects become files.
PLAIN = {
    "rounds": "federation.rounds",
    "clients": "federation.clients",
    "epochs": "centralized.epochs",
    "seed": "seed",
    "epsilon_255": "attack.epsilon-255",
    "results": "results.dir",
    "name": "results.name",
}
OBJECTS = {
    "model": "model.name",
    "loss": "loss.name",
    "attack": "attack.name",
    "method": "method.name",
    "strategy": "strategy.name",
    "selection": "federation.selection",
}

_OF_RUN = "is of fedshield.run; a centralized training has no {}"
_ELSEWHERE = {  # arguments that another function has
    "clients": _OF_RUN.format("clients"),
    "rounds": _OF_RUN.format("rounds, but epochs"),
    "engine": _OF_RUN.format("engine"),
    "workers": _OF_RUN.format("workers"),
    "ray_address": _OF_RUN.format("Ray cluster"),
    "epochs": "is of fedshield.centralized; a federation has rounds, and train.local-epochs in each",
}

_HINTS = {"model.weights": "; objects are saved first, by safetensors.torch.save_file(model.state_dict(), FILE)"}
BESIDE = ("preset", "engine", "workers", "ray_address", "resume", "trust_code", "quiet")  # that are no keys


def configuration(
    preset: str | Path | None,
    arguments: Mapping[str, Any],
    keys: Mapping[str, Any],
    kind: str,
    resume: str | Path | None = None,
    trust_code: bool = False,
) -> RunConfig:
    """Return the configuration of a run.

    Args:
        preset: a preset's name or a TOML file; None for the defaults.
        arguments: by the names in ``PLAIN`` and ``OBJECTS``, ``data`` and ``test``; None where not given.
        keys: full keys, ``section.key``.
        kind: ``federation`` or ``centralized``.
        resume: the run to continue; None for a new one.
        trust_code: as in ``settled``.

    Raises:
        FedShieldError: an argument or a key is not known or not allowed.
    """
    check_flags(trust_code=trust_code)
    if others := [key for key in keys if key in _ELSEWHERE]:
        raise FedShieldError(f"{others[0]}: {_ELSEWHERE[others[0]]}")
    check_known(keys, [*arguments, *BESIDE])
    options: Flat = {} if preset is None else given(_preset(preset), [])
    options |= {key: to_scalar(key, value) for key, value in keys.items()}
    for name, key in {**PLAIN, **OBJECTS}.items():
        if (value := arguments.get(name)) is None:
            continue
        if key in keys:
            raise FedShieldError(f"{name} and {key} are the same; give one of them")
        options[key] = to_scalar(key, value) if name in PLAIN else reference_to(key, value)
    if options.get("results.name") == "":
        raise FedShieldError("results.name = '': is empty; give a name, or leave it out")
    options |= _images(arguments.get("data"), arguments.get("test"), keys)
    return settled(options, None if resume is None else path_of("resume", resume), kind, trust_code)


def _preset(given: Any) -> Path:
    if isinstance(given, str | Path):
        return path_of("preset", given)
    if isinstance(given, Mapping):
        instead = "the keys of a mapping are given as **settings"
    else:
        instead = "objects are given by the argument's name, as in model=Net"
    raise FedShieldError(f"preset: {type(given).__name__}; give a preset's name or a TOML file; {instead}")


def check_known(keys: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Refuse a keyword that is neither an argument nor a key of the configuration.

    Args:
        keys: what a call has given beside its arguments.
        arguments: those that it could have given.

    Raises:
        FedShieldError: it is unknown; the line names near ones.
    """
    known = default_config()
    for key in keys:
        if key not in known:
            words = arguments if "." not in key else []
            hint = near(key, words) or near(key.replace("_", "-"), list(known))
            raise FedShieldError(f'unknown argument or key {key}{hint}; keys are given as **{{"section.key": value}}')


def to_scalar(key: str, value: Any) -> Any:
    """Return a value as the configuration has it: no numpy number, no path, no list, no object.

    Raises:
        FedShieldError: it is an object that this key does not take.
    """
    if key in OBJECTS.values():
        return reference_to(key, value)
    value = value.tolist() if hasattr(value, "tolist") else value  # an array, a tensor, or a number of theirs
    if isinstance(value, list | tuple):
        return ",".join(str(reference_to(key, each)) if callable(each) else str(each) for each in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(value) and key.startswith("evaluate."):
        return reference_to(key, value)
    if not isinstance(value, str | int | float):
        what = f"give a text, a number, or True or False{_HINTS.get(key, '')}"
        raise FedShieldError(f"{key}: {type(value).__name__}; {what}")
    return value


def _images(data: Any, test: Any, keys: Mapping[str, Any]) -> Flat:
    """Return the keys of the data: a name, an image folder, or a folder that is written of arrays."""
    if data is None:
        if test is not None:
            raise FedShieldError("test: is given without data; give the training images too")
        return {}
    if isinstance(data, str) and data not in DATASETS and os.path.isdir(data):
        data = Path(data)
    said = ["data.name"] if isinstance(data, str) else ["data.name", "data.root"]
    if not isinstance(data, str | Path):
        said += ["data.image-size", "data.resize"]  # arrays stay as they are
    if clash := [key for key in said if key in keys]:
        raise FedShieldError(f"data and {clash[0]} are given; give one of them")
    if isinstance(data, str | Path) and test is not None:
        raise FedShieldError("test: data is a name or a folder, which has test images of its own; leave test out")
    if isinstance(data, str):
        if not (data in DATASETS or ":" in data):
            raise FedShieldError(
                f"data = {data!r}: neither a dataset ({', '.join(DATASETS)}, hf:NAME, medmnist:NAME) nor a folder here"
            )
        return {"data.name": data}
    if isinstance(data, Path):
        return {"data.name": "folder", "data.root": str(data)}
    folder, side = write_folder(data, test)
    return {"data.name": "folder", "data.root": str(folder), "data.image-size": side}
