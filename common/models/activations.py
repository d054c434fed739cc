"""Activation functions by name, each with the gain of the weights that go before it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Activation:
    """An activation function.

    Attributes:
        make: builds the module; PReLU has a weight of its own.
        gain: 1 / √E[φ(z)²] for z ~ N(0, 1): weights of variance gain² / fan-in keep the second moment of what goes
            through, the criterion of He et al. 2015 (arXiv 1502.01852, equation 10; √2 for ReLU). SELU's is 1, as
            Klambauer et al. 2017 (arXiv 1706.02515) ask for.
    """

    make: Callable[[], nn.Module]
    gain: float


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(nn.ReLU, 1.41421356),
    "leaky-relu": Activation(nn.LeakyReLU, 1.41414),
    "prelu": Activation(nn.PReLU, 1.37199),
    "elu": Activation(nn.ELU, 1.24520),
    "selu": Activation(nn.SELU, 1.0),
    "celu": Activation(nn.CELU, 1.24520),
    "gelu": Activation(nn.GELU, 1.53353),
    "silu": Activation(nn.SiLU, 1.67653),
    "mish": Activation(nn.Mish, 1.48685),
    "softplus": Activation(nn.Softplus, 1.04187),
    "tanh": Activation(nn.Tanh, 1.59254),
}
