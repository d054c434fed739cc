"""Networks that are not FedShield's: torchvision's classifiers by name, and a user's own from a Python file."""

import hashlib
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from common.errors import FedShieldError
from common.models.modes import keep_statistics
from common.user_code import explain_user_code, is_user_code, load_user_code
from common.words import near

log = logging.getLogger("fedshield")

TORCHVISION = "torchvision:"
_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool}
TYPES = _INTEGERS | {torch.float16, torch.float32, torch.float64}  # that arrays have in a message


def is_borrowed(name: str) -> bool:
    """Return whether a network's name is ``torchvision:NAME`` or ``FILE.py:NAME``."""
    return name.startswith(TORCHVISION) or is_user_code(name)


def borrow(name: str, normalize: nn.Module, options: Mapping[str, Any], image_size: int) -> nn.Module:
    """Build such a network and check that it turns images into logits.

    Args:
        name: ``torchvision:NAME``, or ``FILE.py:NAME`` of a function that returns a network from pixels in [0, 1] to
            logits, and takes whichever of ``options`` it names.
        normalize: the first layer of torchvision's.
        options: what the configuration says of the network; ``classes`` among it.
        image_size: side of the images, in pixels.

    Raises:
        FedShieldError: there is no such network, or it does not take such images; one line.
    """
    if is_user_code(name):
        with explain_user_code("model.name", name):
            make = load_user_code("model.name", name)
            model = make(**_wanted(make, options))
        if not isinstance(model, nn.Module):
            raise FedShieldError(f"model.name = {name}: must return a torch.nn.Module, not {type(model).__name__}")
        built: nn.Module = model
    else:
        built = nn.Sequential(normalize, _torchvision(name, options["classes"], image_size))
    _try(name, built, options["classes"], image_size)
    return built


def _wanted(make: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that a function names; all, where it takes any."""
    parameters = inspect.signature(make).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(options)
    return {name: value for name, value in options.items() if name in {parameter.name for parameter in parameters}}


def _torchvision(name: str, classes: int, image_size: int) -> nn.Module:
    import torchvision

    kind = name.removeprefix(TORCHVISION)
    known = torchvision.models.list_models(module=torchvision.models)
    if kind not in known:
        raise FedShieldError(f"model.name = {name}: torchvision has no such classifier{near(kind, known)}")
    try:
        options = torchvision_options(name, classes, image_size)
        model: nn.Module = torchvision.models.get_model(kind, weights=None, **options)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _unfit(name, image_size, error) from error
    return model


def default_weights(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return torchvision's default weights of ``torchvision:NAME``, downloaded into PyTorch's hub folder if missing.

    Args:
        name: of the network.

    Returns:
        The weights, by torchvision's names; and ``from``, ``name`` and ``sha256`` of the file.

    Raises:
        FedShieldError: there is no such classifier, or the download failed; the message names file and address.
    """
    import torchvision

    kind = name.removeprefix(TORCHVISION)
    weights = torchvision.models.get_model_weights(kind).DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not path.exists():
        log.info("Downloading %s from %s", path, weights.url)
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:  # no network, or another hash
        raise FedShieldError(
            f"model.weights = torchvision: {path}: not found or damaged, and the download of {weights.url} failed "
            f"({error}); put the file there by hand"
        ) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    auxiliary = ("aux", "AuxLogits")  # which are left out here
    state = {key: value for key, value in state.items() if not key.startswith(auxiliary)}
    return state, {"from": "torchvision", "name": str(weights), "sha256": digest}


def torchvision_options(name: str, classes: int, image_size: int) -> dict[str, Any]:
    """Return what ``torchvision.models.get_model`` is given to build ``torchvision:NAME``."""
    kind = name.removeprefix(TORCHVISION)
    options: dict[str, Any] = {"num_classes": classes}
    if kind.startswith("vit"):
        options["image_size"] = image_size
    if kind in {"googlenet", "inception_v3"}:  # in training they would return three results
        options |= {"aux_logits": False, "init_weights": True}
    return options


def _try(name: str, model: nn.Module, classes: int, image_size: int) -> None:
    """Check that a network returns logits [2, classes] for two images, in eval and training mode, and can be trained.

    Its statistics are put back afterwards; it is left in training mode.
    """
    _check_types(name, model)
    images = torch.rand(2, 3, image_size, image_size)
    if _shapeless(model):  # lazy layers, which take their shapes from the first images
        _try_mode(name, model.eval(), images, classes)
        _check_used(name, _shapeless(model))
    with keep_statistics(model):
        _try_mode(name, model.eval(), images, classes)
        logits = _try_mode(name, model.train(), images, classes)
        _try_gradient(name, model, logits)


def _try_mode(name: str, model: nn.Module, images: Tensor, classes: int) -> Tensor:
    """Return the logits of a network in the mode in which it is, once they are what they should be."""
    mode = "in training mode" if model.training else "in eval mode"
    given = images.clone()
    try:
        with torch.set_grad_enabled(model.training), explain_user_code("model.name", name):
            logits = model(given)
    except FedShieldError as error:
        raise error if is_user_code(name) else _unfit(name, images.shape[-1], error.__cause__) from error
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (2, classes):
        raise FedShieldError(f"model.name = {name}: {mode} returns {shape} for 2 images; logits must be (2, {classes})")
    if logits.dtype != torch.float32:
        raise FedShieldError(f"model.name = {name}: {mode} returns logits of {logits.dtype}; return float32")
    if not logits.isfinite().all():
        raise FedShieldError(f"model.name = {name}: {mode} returns nan or infinity; check its weights and buffers")
    if not torch.equal(images, given):
        raise FedShieldError(f"model.name = {name}: changes its input images; let it work on a copy")
    made: Tensor = logits
    return made


def _check_types(name: str, model: nn.Module) -> None:
    """Check that what the clients send can be averaged: means of complex numbers or bfloat16 are not implemented."""
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.dtype not in TYPES:
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise FedShieldError(
                f"model.name = {name}: {key} is {what}, which cannot be averaged over the clients; use float32, "
                "float64 or float16"
            )


def _try_gradient(name: str, model: nn.Module, logits: Tensor) -> None:
    """Check that every weight with ``requires_grad`` gets a gradient."""
    weights = {key: weight for key, weight in model.named_parameters() if weight.requires_grad}
    if not weights:
        raise FedShieldError(f"model.name = {name}: has no trainable weights")
    if not logits.requires_grad:
        raise FedShieldError(
            f"model.name = {name}: its logits have no gradient; remove detach and no_grad from forward"
        )
    with torch.enable_grad():  # the caller may have switched gradients off
        total = logits.sum()
    gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    _check_used(name, [key for key, gradient in zip(weights, gradients, strict=True) if gradient is None])


def _shapeless(model: nn.Module) -> list[str]:
    """Return the names of the arrays of lazy layers that have no shape yet."""
    return [key for key, array in (*model.named_parameters(), *model.named_buffers()) if is_lazy(array)]


def _check_used(name: str, unused: list[str]) -> None:
    if unused:
        these = ", ".join(unused[:3]) + (" ..." if unused[3:] else "")
        raise FedShieldError(
            f"model.name = {name}: forward does not use {these}; remove what is not used, or set its "
            "requires_grad to False"
        )


def _unfit(name: str, image_size: int, error: BaseException | None) -> FedShieldError:
    told = str(error).strip().split("\n")[0]
    return FedShieldError(
        f"model.name = {name}: does not accept images of {image_size}×{image_size} ({told}); use another network, or, "
        "for data.name = folder, another data.image-size"
    )
