"""Loads a model that ``fedshield export`` has written, for programs that know nothing about runs."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from common.arguments import check_flags, path_of
from common.errors import FedShieldError
from common.models.networks import build_model, load_state
from common.trust import require_trust
from common.user_code import is_user_code

ARCHITECTURE = "fedshield"  # key of what builds the network again, in the metadata of a safetensors file
CODE = "model.py"  # in the same folder, if the network is a user's own
_LARGEST, _WIDEST = 512, 1024  # data.image-size and model.width, as the configuration allows them


@dataclass(frozen=True)
class Exported:
    """A model and what is needed to use it.

    Attributes:
        model: in eval mode, from pixels [B,3,S,S] in [0, 1] to logits.
        classes: names, in the order of the logits.
        image_size: S.
    """

    model: nn.Module
    classes: tuple[str, ...]
    image_size: int


def load_exported(path: Path | str, trust_code: bool = False) -> nn.Module:
    """Return a model from ``model.safetensors``, in eval mode, as RobustBench and AutoAttack take one.

    The model takes pixels [B,3,H,W] in [0, 1], normalizes them itself, and returns logits [B, classes].

    Args:
        path: of the file.
        trust_code: a user's own network is built by ``model.py`` in the same folder; run it even if this
            user has not run that code on this machine before.

    Raises:
        FedShieldError: the file is not there, damaged, or not one that ``fedshield export`` wrote; or its code is not
            to be run unasked.
    """
    return read_exported(path, trust_code).model


def read_exported(path: Path | str, trust_code: bool = False) -> Exported:
    """Return a model as ``load_exported`` does, with its classes and the size of its images."""
    check_flags(trust_code=trust_code)
    path = path_of("path", path)
    if path.is_dir():
        raise FedShieldError(f"{path}: is a folder; give the file in it, as in {path / 'model.safetensors'}")
    if not path.is_file():
        raise FedShieldError(f"{path}: not found; give a file from fedshield export")
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})[ARCHITECTURE])
        network, classes, side = told["network"], told["classes"], told["image-size"]
        if not _plain(classes, side, network["width"]):
            raise TypeError
        if is_user_code(network["name"]):
            network["name"] = _beside(path, network["name"], trust_code)
        model = build_model(**network, classes=len(classes), seed=0, image_size=side)
        load_state(model, load_file(path))
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise FedShieldError(f"{path}: damaged, or not written by fedshield export --format safetensors") from error
    return Exported(model.eval(), tuple(classes), side)


def _plain(classes: object, side: object, width: object) -> bool:
    """Return whether the sizes that decide how much memory is used are among those that a run can have."""
    named = isinstance(classes, list) and bool(classes) and all(isinstance(name, str) for name in classes)
    sized = type(side) is int and 0 < side <= _LARGEST and type(width) is int and 0 < width <= _WIDEST
    return named and sized


def _beside(path: Path, name: str, trust_code: bool) -> str:
    """Return where the code of a network is: ``model.py`` in the same folder, and nowhere else on this machine."""
    file, _, function = name.rpartition(":")
    if file != CODE:
        raise FedShieldError(
            f"{path}: names the code {file}; only {CODE} next to it may run, as fedshield export writes it"
        )
    code = path.absolute().with_name(CODE)
    require_trust(code, code.parent, trust_code)
    return f"{code}:{function}"
