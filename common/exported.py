"""Loading a model that ``fedshield export`` has written, for programs that know nothing of runs."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from common.errors import FedShieldError
from common.models import build_model, load_state
from common.own import is_own

ARCHITECTURE = "fedshield"  # key of what builds the network again, in the metadata of a safetensors file


@dataclass(frozen=True)
class Exported:
    """A model and what must be known to use it.

    Attributes:
        model: in eval mode, from pixels [B,3,S,S] in [0, 1] to logits.
        classes: names, in the order of the logits.
        image_size: S.
    """

    model: nn.Module
    classes: tuple[str, ...]
    image_size: int


def load_exported(path: Path | str) -> nn.Module:
    """Return a model from ``model.safetensors``, in eval mode, as RobustBench and AutoAttack take one.

    A network of the user's own is built by ``model.py`` in the same folder, which is run. The model takes pixels
    [B,3,H,W] in [0, 1], normalises them itself, and returns logits [B, classes].

    Raises:
        FedShieldError: the file is not there, damaged, or not one that ``fedshield export`` wrote.
    """
    return read_exported(path).model


def read_exported(path: Path | str) -> Exported:
    """Return a model as ``load_exported`` does, with its classes and the size of its images."""
    if not Path(path).is_file():
        raise FedShieldError(f"{path}: not there; give a file that fedshield export has written")
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})[ARCHITECTURE])
        network = told["network"]
        if is_own(network["name"]):
            network["name"] = f"{Path(path).parent / network['name']}"
        model = build_model(**network, classes=len(told["classes"]), seed=0, image_size=told["image-size"])
        load_state(model, load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FedShieldError(f"{path}: damaged, or not written by fedshield export --format safetensors") from error
    return Exported(model.eval(), tuple(told["classes"]), told["image-size"])
