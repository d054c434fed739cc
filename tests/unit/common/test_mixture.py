"""Mixtures of training attacks: who attacks which image, and how the weights move."""

import math

import pytest
import torch
from torch import Tensor, nn

from common.attacks.cw_linf import margin
from common.attacks.mixture import Mixture, build_training_attack
from common.attacks.threat import Threat
from common.models.networks import build_model

THREAT = Threat(8 / 255, 2 / 255, 3)
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class TwoClasses(nn.Module):
    """Logits 0 and 4 × (mean pixel − ½)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, pixels: Tensor) -> Tensor:
        mean = pixels.mean((1, 2, 3))
        return torch.stack([0 * mean, self.scale * (mean - 0.5)], 1)


def constant(value: float) -> object:
    return lambda images, labels: torch.full_like(images, value)


def test_each_image_goes_to_one_attack_as_often_as_its_weight_says() -> None:
    torch.manual_seed(0)
    mixture = Mixture(TwoClasses(), [constant(0.1), constant(0.9)], [3, 1], rate=0.0)
    found = mixture(torch.full((4000, 3, 1, 1), 0.5), torch.zeros(4000, dtype=torch.int64))
    first = (found[:, 0, 0, 0] < 0.5).double().mean().item()
    assert found.unique().tolist() == pytest.approx([0.1, 0.9])
    assert first == pytest.approx(0.75, abs=0.03)
    assert mixture.weights.tolist() == [0.75, 0.25]


def test_weights_move_to_the_attack_that_hurts_most_by_hand() -> None:
    torch.manual_seed(0)
    mixture = Mixture(TwoClasses(), [constant(0.5), constant(0.0)], [1, 1], rate=0.5)
    mixture(torch.full((64, 3, 1, 1), 0.5), torch.ones(64, dtype=torch.int64))
    # Cross-entropy of class 1: logits 0, 0 give ln 2; logits 0, −2 give ln(1 + e²). Weights ∝ exp(loss / 2).
    weak, strong = math.sqrt(2), math.sqrt(1 + math.exp(2))
    assert mixture.weights.tolist() == pytest.approx([weak / (weak + strong), strong / (weak + strong)], rel=1e-6)


def test_an_attack_that_was_given_no_image_keeps_its_weight() -> None:
    mixture = Mixture(TwoClasses(), [constant(0.5)] * 3, [20, 1, 1], rate=0.1)
    images, labels = torch.full((4, 3, 1, 1), 0.5), torch.ones(4, dtype=torch.int64)
    torch.manual_seed(0)
    for _ in range(100):  # equally strong attacks, two of which are often given nothing
        mixture(images, labels)
    assert mixture.weights.tolist() == pytest.approx([20 / 22, 1 / 22, 1 / 22], rel=1e-4)


def test_the_stronger_attack_wins_from_a_small_weight() -> None:
    mixture = Mixture(TwoClasses(), [constant(0.5), constant(0.2)], [9, 1], rate=0.2)
    images, labels = torch.full((8, 3, 1, 1), 0.5), torch.ones(8, dtype=torch.int64)
    torch.manual_seed(0)
    for _ in range(200):
        mixture(images, labels)
    assert mixture.weights[1] == pytest.approx(0.99, abs=0.01)
    assert mixture.weights[0] > 0.009  # and the weaker is still tried now and then


def test_a_loss_that_is_not_finite_leaves_the_weights() -> None:
    mixture = Mixture(TwoClasses(), [constant(float("nan"))], [1], rate=0.5)
    mixture(torch.full((4, 3, 1, 1), 0.5), torch.ones(4, dtype=torch.int64))
    assert mixture.weights.tolist() == [1.0]


@pytest.mark.parametrize("name", ["deepfool", "cw", "mixture"])
def test_training_attacks_stay_in_the_ball(name: str) -> None:
    model = build_model("cnn", 10, 4, "relu", True, 1)
    attack = build_training_attack(name, model, THREAT, (("deepfool", 1.0), ("pgd", 1.0)), 0.1)
    with torch.no_grad():
        labels = model.eval()(IMAGES).argmax(1)
    found = attack(IMAGES, labels)
    assert 0 < (found - IMAGES).abs().max() <= THREAT.epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_margin_by_hand() -> None:
    logits = torch.tensor([[1.0, 4.0, -2.0], [-5.0, -1.0, -3.0]])
    assert margin(logits, torch.tensor([1, 0])).tolist() == [-3.0, 4.0]
