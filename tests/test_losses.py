"""Training methods against their equations."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchattacks
from torch import Tensor, nn

from common.attacks import Threat
from common.losses import LOSSES, LossContext, soft_cross_entropy
from common.models import build_model

IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 1, 2, 9])
CONTEXT = LossContext("pgd", Threat(8 / 255, 2 / 255, 3), label_smoothing=0.05, noise_std=0.1)


def test_soft_labels_by_hand() -> None:
    # Three classes, alpha = 0.3: true class 1 − 0.3·2/3 = 0.8, the others 0.3/3 = 0.1. Logits 0, 0, ln 2 give the
    # probabilities 1/4, 1/4, 1/2, so with true class 2: −(0.1 ln ¼ + 0.1 ln ¼ + 0.8 ln ½) = 0.4 ln 2 + 0.8 ln 2.
    logits = torch.tensor([[0.0, 0.0, math.log(2)]])
    assert soft_cross_entropy(logits, torch.tensor([2]), 0.3).item() == pytest.approx(1.2 * math.log(2))


class Recorder(nn.Module):
    """Keeps what it was shown while in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build_model("cnn", 10, 2, "relu", True, 1)
        self.seen: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        if self.training:
            self.seen.append(pixels.detach())
        logits: Tensor = self.inner(pixels)
        return logits


def test_pgd_at_trains_on_torchattacks_examples_alone() -> None:
    model = Recorder().train()
    torch.manual_seed(5)
    value = LOSSES["pgd-at"](model, CONTEXT)(IMAGES, LABELS)
    reference = Recorder()
    torch.manual_seed(5)
    adversarial = torchattacks.PGD(reference.eval(), eps=8 / 255, alpha=2 / 255, steps=3)(IMAGES, LABELS)
    (seen,) = model.seen
    assert torch.equal(seen, adversarial)
    expected = F.cross_entropy(reference.train()(adversarial), LABELS, label_smoothing=0.05)
    assert value.item() == expected.item()


def test_mixed_at_joins_noised_natural_and_adversarial_images() -> None:
    model = Recorder().train()
    images = IMAGES.repeat(40, 1, 1, 1)
    LOSSES["mixed-at"](model, CONTEXT)(images, LABELS.repeat(40))
    (seen,) = model.seen
    noisy, adversarial = seen.split(len(images))
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert (adversarial - images).abs().max() <= 8 / 255 + 1e-6
    inner = (images > 0.4) & (images < 0.6)  # four standard deviations from the clamp
    noise = (noisy - images)[inner]
    assert noise.mean().item() == pytest.approx(0, abs=0.002)
    assert noise.std().item() == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_get_a_gradient_and_the_attack_leaves_none(name: str) -> None:
    model = build_model("cnn", 10, 2, "relu", True, 1)
    loss = LOSSES[name](model, CONTEXT)(IMAGES, LABELS)
    assert all(parameter.grad is None for parameter in model.parameters())
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
