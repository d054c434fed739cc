"""Restores a network after something was tried on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def keep_modes(model: nn.Module) -> Iterator[None]:
    """Give every module its own mode back, training or eval, when the block ends."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def keep_statistics(model: nn.Module) -> Iterator[None]:
    """Give every buffer its values back, such as the statistics of batch normalization, when the block ends."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in zip(model.buffers(), before, strict=True):
                buffer.copy_(values)


def ways_of(model: nn.Module) -> list[object]:
    """Return everything but weights that decides what a network computes: its parts, their hooks and ``forward``.

    The list differs from an earlier one if any of these was added, removed or replaced.
    """
    parts: list[object] = []
    for module in model.modules():
        own = vars(module)
        parts += [module, own.get("forward")]
        parts += [hook for name in own if name.endswith("_hooks") for hook in own[name].values()]
    return parts
