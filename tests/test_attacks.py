"""Attacks: torchattacks' own results, inside the budget, with every module's mode given back."""

import pytest
import torch
import torchattacks
from torch import nn

from common.attacks import ATTACKS, MINIMAL, Threat, attack_mode, build_attack, parse_label
from common.models import build_model

THREAT = Threat(epsilon=8 / 255, step=2 / 255, steps=4)
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6)
REFERENCES = {
    "fgsm": lambda model: torchattacks.FGSM(model, eps=8 / 255),
    "bim": lambda model: torchattacks.BIM(model, eps=8 / 255, alpha=2 / 255, steps=4),
    "pgd": lambda model: torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=4),
}


class FirstPixel(nn.Module):
    """Class 1 when the first pixel of the first channel is above 1/2; its gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        margin = self.scale * (pixels[:, 0, 0, 0] - 0.5)
        return torch.stack([-margin, margin], 1)


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_torchattacks_called_directly(name: str) -> None:
    model = build_model("cnn", 10, 4, "relu", True, 1).eval()
    torch.manual_seed(3)
    expected = REFERENCES[name](model)(IMAGES, LABELS)
    torch.manual_seed(3)
    found = build_attack(name, model.train(), THREAT)(IMAGES, LABELS)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - MINIMAL))
def test_stays_in_the_ball_and_among_the_pixels(name: str) -> None:
    model = build_model("resnet18", 10, 2, "silu", True, 1)
    with torch.no_grad():
        labels = model.eval()(IMAGES).argmax(1)  # AutoAttack's parts leave an image alone that is wrong already
    found = build_attack(name, model, THREAT)(IMAGES, labels)
    assert not found.requires_grad
    assert (found - IMAGES).abs().max() <= THREAT.epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, IMAGES)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", REFERENCES)
def test_moves_the_one_pixel_that_matters_against_the_label(name: str) -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    found = build_attack(name, FirstPixel(), THREAT)(images, torch.tensor([0, 1]))
    # Gradient ascent on the loss: up for an image of class 0, down for one of class 1, by the whole budget.
    # (PGD may start at the far side of the ball, 4 steps of 2/255 away from the middle of it.)
    moved = (found - images)[:, 0, 0, 0]
    assert moved[0] > 0 > moved[1]
    if name != "pgd":
        assert moved.tolist() == pytest.approx([8 / 255, -8 / 255], abs=1e-6)


def test_every_module_gets_its_own_mode_back_and_batch_statistics_stay() -> None:
    model = build_model("cnn", 10, 4, "relu", True, 1).train()
    frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    frozen.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[bool] = []
    frozen.register_forward_hook(lambda module, inputs, output: seen.append(any(m.training for m in model.modules())))
    build_attack("pgd", model, THREAT)(IMAGES, LABELS)
    assert seen == [False] * THREAT.steps
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_modes_come_back_after_an_error_too() -> None:
    model = nn.Sequential(nn.Linear(1, 1)).train()
    with pytest.raises(ZeroDivisionError), attack_mode(model):
        1 / 0  # noqa: B018
    assert all(module.training for module in model.modules())


def test_labels_name_the_steps() -> None:
    assert parse_label("pgd-20", THREAT) == ("pgd", Threat(8 / 255, 2 / 255, 20))
    assert parse_label("cw-30x5", THREAT) == ("cw", Threat(8 / 255, 2 / 255, 30, restarts=5))
    assert parse_label("apgd-ce-7", THREAT) == ("apgd-ce", Threat(8 / 255, 2 / 255, 7))
    assert parse_label("apgd-ce", THREAT) == ("apgd-ce", Threat(8 / 255, 2 / 255, 0))
    assert parse_label("cw-l2", THREAT) == ("cw-l2", Threat(8 / 255, 2 / 255, 0))
