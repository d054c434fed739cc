"""What personal models are made of: which arrays of a network stay with a client, and how they are kept."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import FedShieldError
from common.methods.method import Arrays

_OWN = "own/"


def with_own(kept: Arrays, own: Arrays) -> Arrays:
    """Return what a client keeps for its method together with the arrays of its own model."""
    return {**kept, **{f"{_OWN}{name}": array for name, array in own.items()}}


def without_own(together: Mapping[str, Tensor]) -> tuple[Arrays, Arrays]:
    """Return what ``with_own`` has put together.

    >>> import torch
    >>> kept, own = without_own(with_own({"c": torch.ones(1)}, {"0.bias": torch.zeros(1)}))
    >>> list(kept), list(own)
    (['c'], ['0.bias'])
    """
    own = {name.removeprefix(_OWN): array for name, array in together.items() if name.startswith(_OWN)}
    return {name: array for name, array in together.items() if not name.startswith(_OWN)}, own


def norm_names(model: nn.Module) -> list[str]:
    """Return the names of all arrays of batch normalization: weights, statistics and counters.

    Raises:
        FedShieldError: there are none.
    """
    norms = [(place, part) for place, part in model.named_modules() if isinstance(part, _BatchNorm)]
    names = [f"{place}.{name}" for place, part in norms for name in part.state_dict()]
    if not names:
        raise FedShieldError(
            "method.name: the network has no batch normalization that could stay with a client; choose another "
            "model.name or method.name"
        )
    return names


def head_names(model: nn.Module) -> list[str]:
    """Return the names of the arrays of the last layer with weights, in the order in which the network names them.

    Raises:
        FedShieldError: there is no other layer.
    """
    layers = [
        (place, part)
        for place, part in model.named_modules()
        if any(True for _ in part.parameters(recurse=False)) and not isinstance(part, _BatchNorm)
    ]
    if len(layers) < 2:
        raise FedShieldError(
            "method.name: the network has no layer that could be shared beside its last one; choose another model.name "
            "or method.name"
        )
    place, part = layers[-1]
    return [f"{place}.{name}" for name in part.state_dict()]
