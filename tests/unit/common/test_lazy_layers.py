"""Lazy layers in a user's network: they take their shapes from the first images, before anything looks at them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import FedShieldError
from common.models.networks import build_model

CODE = """from torch import nn
def network(classes, width):
    return nn.Sequential(
        nn.LazyConv2d(width, 3, stride=4), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))
class Odd(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head, self.never = nn.Linear(3072, classes), nn.LazyLinear(2)
    def forward(self, pixels):
        return self.head(pixels.flatten(1))
"""


def build(folder: Path, name: str) -> nn.Module:
    (folder / "lazy.py").write_text(CODE)
    return build_model(f"{folder / 'lazy.py'}:{name}", 10, 2, "relu", True, seed=1)


def test_lazy_layers_have_their_shapes_and_the_seed_decides_the_weights(tmp_path: Path) -> None:
    first, second = (build(tmp_path, "network").state_dict() for _ in range(2))
    assert first["4.weight"].shape == (10, 2 * 8 * 8)
    assert first["1.running_mean"].tolist() == [0, 0]
    assert int(first["1.num_batches_tracked"]) == 0
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_lazy_layer_that_is_never_used_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match=r"^model.name = .*lazy.py:Odd: forward does not use never.weight, never"):
        build(tmp_path, "Odd")
