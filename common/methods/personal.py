"""What personal models are made of: which arrays of a network stay with a client, and how they are kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import FedShieldError
from common.methods.method import Arrays

RESERVED = _OWN, _TUNED = "own/", "tuned/"  # before names; a method's own arrays have others


@dataclass(frozen=True)
class Kept:
    """What a client keeps from round to round, and after the last.

    Attributes:
        method: whatever its method keeps.
        own: arrays of its own model, which take the place of those of the global one.
        tuned: its own model after fine-tuning, which the next round does not go on from.
    """

    method: Arrays = field(default_factory=dict)
    own: Arrays = field(default_factory=dict)
    tuned: Arrays = field(default_factory=dict)

    def together(self) -> Arrays:
        """Return all in one dictionary.

        >>> import torch
        >>> kept = Kept({"c": torch.ones(1)}, own={"0.bias": torch.zeros(1)})
        >>> list(kept.together()), Kept.of(kept.together()) == kept
        (['c', 'own/0.bias'], True)
        """
        prefixed = [("", self.method), (_OWN, self.own), (_TUNED, self.tuned)]
        return {f"{prefix}{name}": array for prefix, arrays in prefixed for name, array in arrays.items()}

    @classmethod
    def of(cls, together: Mapping[str, Tensor]) -> Self:
        """Return what ``together`` has put into one dictionary."""
        method, own, tuned = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
        for name, array in together.items():
            prefix = next((prefix for prefix in (_OWN, _TUNED) if name.startswith(prefix)), "")
            {"": method, _OWN: own, _TUNED: tuned}[prefix][name.removeprefix(prefix)] = array
        return cls(method, own, tuned)


def norm_names(model: nn.Module, method: str) -> list[str]:
    """Return the names of all arrays of batch normalization: weights, statistics and counters.

    Args:
        model: a network.
        method: ``method.name``.

    Raises:
        FedShieldError: there are none.
    """
    norms = [(place, part) for place, part in model.named_modules() if isinstance(part, _BatchNorm)]
    names = [f"{place}.{name}" for place, part in norms for name in part.state_dict()]
    if not names:
        raise FedShieldError(
            f"method.name = {method}: the network has no batch normalization that could stay with a client; choose "
            "another model.name or method.name"
        )
    return names


def head_names(model: nn.Module, method: str) -> list[str]:
    """Return the names of the arrays of the last layer with weights, in the order in which the network names them.

    Args:
        model: a network.
        method: ``method.name``.

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
            f"method.name = {method}: the network has no layer that could be shared beside its last one; choose "
            "another model.name or method.name"
        )
    place, part = layers[-1]
    return [f"{place}.{name}" for name in part.state_dict()]
