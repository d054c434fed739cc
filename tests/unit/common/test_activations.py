"""Activation functions: the gains of the weights before them."""

import math

import pytest
import torch

from common.models.activations import ACTIVATIONS
from common.models.networks import build_model


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gain_keeps_the_second_moment_of_a_normal_variable(name: str) -> None:
    z = torch.linspace(-12, 12, 200_001)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    with torch.no_grad():
        second = (ACTIVATIONS[name].make()(z) ** 2 * density).double().sum().item()
    assert ACTIVATIONS[name].gain ** 2 * second == pytest.approx(1, abs=2e-3)


def test_convolutions_start_at_the_ratio_of_the_gains() -> None:
    relu = build_model("resnet18", 10, 4, "relu", True, 1).state_dict()
    tanh = build_model("resnet18", 10, 4, "tanh", True, 1).state_dict()
    ratio = 1.59254 / math.sqrt(2)
    convolutions = [name for name, value in relu.items() if value.dim() == 4]
    assert len(convolutions) == 20
    for name in convolutions:
        assert torch.allclose(tanh[name], relu[name] * ratio)
    last = [name for name, value in relu.items() if value.dim() == 2]
    assert all(torch.equal(relu[name], tanh[name]) for name in last)
