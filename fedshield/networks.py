"""Checks a network that a script or a notebook gives: what it returns, and what it raises, as one line."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.attacks.library import attack_mode
from common.errors import FedShieldError
from common.evaluation.evaluate import probe
from common.models.modes import keep_statistics
from common.training.trainer import pixels
from common.user_code import what_was_raised

_FEW = 64  # images to look at
_TORCH = Path(torch.__file__).parent
_NO_MEMORY = ("out of memory", "allocate memory")


def check_network(model: nn.Module, images: NDArray[np.uint8]) -> int:
    """Check that a network turns images into logits; return the number of its classes.

    Args:
        model: from pixels [B,3,H,W] in [0, 1] to logits [B, classes], 2 classes or more.
        images: uint8 [N,3,H,W], N >= 1; up to 64 of them are shown, in eval mode.

    Raises:
        FedShieldError: it is no network with weights, it raises, or what it returns are no logits.
    """
    if not isinstance(model, nn.Module) or next(model.parameters(), None) is None:
        raise FedShieldError(f"model: {type(model).__name__}; give a torch.nn.Module with weights")
    if any(array.is_meta for array in (*model.parameters(), *model.buffers())):
        raise FedShieldError(
            f"model: {type(model).__name__} is on the meta device, without values; load its weights on another"
        )
    rows = np.linspace(0, len(images) - 1, min(_FEW, len(images))).round().astype(np.int64)
    shown = pixels(images[rows], next(model.parameters()).device)
    what = f"does not take images of {images.shape[2]}×{images.shape[3]} pixels as [B,3,H,W]"
    with explain_network(model, what):
        with torch.no_grad(), attack_mode(model), keep_statistics(model):
            logits = model(shown)
        classes = _check_logits(logits, len(shown))
        probe(model, images)  # what fails on the way back, too
    return classes


def _check_logits(logits: object, count: int) -> int:
    """Check what a network returns for so many images; return the number of classes."""
    if not isinstance(logits, Tensor):
        raise FedShieldError(f"model: returns {type(logits).__name__}; return one tensor, logits [B, classes]")
    shape = tuple(logits.shape)
    if len(shape) != 2 or shape[0] != count:
        raise FedShieldError(f"model: returns shape {shape} for {count} images; return logits ({count}, classes)")
    if shape[1] < 2:
        raise FedShieldError(
            f"model: returns {shape[1]} logit{'s' * (shape[1] != 1)} for each image; return one for each class, 2 or "
            "more: for a single logit z, the two are 0 and z"
        )
    if not logits.is_floating_point():
        raise FedShieldError(f"model: returns {logits.dtype}; return logits that are floats, as float32")
    if odd := int((~logits.isfinite()).any(1).sum()):
        raise FedShieldError(
            f"model: for {odd} of {count} images its logits are not finite (NaN or infinite), so there is no class; "
            "check its weights"
        )
    return shape[1]


@contextmanager
def explain_network(model: nn.Module, what: str) -> Iterator[None]:
    """Turn what a network raises into one line that names the place in the user's file, as for code of a run.

    Args:
        model: the network.
        what: it does or does not do, for messages.
    """
    try:
        yield
    except FedShieldError:
        raise
    except (Exception, SystemExit) as error:  # a network that calls sys.exit() would end the process silently
        told = what_was_raised(error)
        if isinstance(error, MemoryError) or any(words in told.lower() for words in _NO_MEMORY):
            raise FedShieldError(
                f"batch_size: too many images at a time for the memory ({told}); give a smaller number"
            ) from error
        raise FedShieldError(f"model: {what} ({_place(model, error)}{told})") from error


def _place(model: nn.Module, error: BaseException) -> str:
    """Return file and line where a part of the network was that raised; nothing where it is torch's own code."""
    parts = {id(module) for module in model.modules()}
    places = [
        f"{frame.f_code.co_filename}, line {line}: "
        for frame, line in traceback.walk_tb(error.__traceback__)
        if id(next(iter(frame.f_locals.values()), None)) in parts  # self, whatever its name
        and not Path(frame.f_code.co_filename).is_relative_to(_TORCH)
    ]
    return places[-1] if places else ""
