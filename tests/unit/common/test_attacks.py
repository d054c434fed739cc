"""Attacks: torchattacks' own results, inside the budget, with every module's mode given back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchattacks
from torch import nn

from common.attacks.library import ATTACKS, AUTOATTACK, attack_mode, build_attack, check_classes
from common.attacks.threat import FAMILIES, AttackSpec, Bounded, Minimal, Threat
from common.errors import FedShieldError
from common.models.networks import build_model

THREAT = Threat(epsilon=8 / 255, step=2 / 255, steps=4)
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6)
SMALL = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
REFERENCES: dict[str, Callable[[nn.Module], Any]] = {
    "fgsm": lambda model: torchattacks.FGSM(model, eps=8 / 255),
    "bim": lambda model: torchattacks.BIM(model, eps=8 / 255, alpha=2 / 255, steps=4),
    "pgd": lambda model: torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=4),
}
MINIMAL_REFERENCES: dict[str, Callable[[nn.Module], Any]] = {
    "deepfool": lambda model: torchattacks.DeepFool(model, steps=50, overshoot=0.02),
    "cw-l2": lambda model: torchattacks.CW(model, c=1, kappa=0, steps=100, lr=0.01),
}
SEEDED_REFERENCES: dict[str, Callable[[nn.Module, int], Any]] = {
    "apgd-ce-9": lambda model, seed: torchattacks.APGD(model, eps=8 / 255, steps=9, seed=seed, loss="ce"),
    "apgd-t-9": lambda model, seed: torchattacks.APGDT(model, eps=8 / 255, steps=9, seed=seed, n_classes=10),
    "fab-t-9": lambda model, seed: torchattacks.FAB(
        model, eps=8 / 255, steps=9, seed=seed, multi_targeted=True, n_classes=10
    ),
    "square-99": lambda model, seed: torchattacks.Square(
        model, eps=8 / 255, n_queries=99, p_init=0.8, loss="margin", resc_schedule=False, seed=seed
    ),
}
# What the code of AutoAttack's authors passes as its standard version; torchattacks' own defaults are others.
STANDARD = {
    "apgd-ce": {"norm": "Linf", "steps": 100, "n_restarts": 1, "loss": "ce", "eot_iter": 1, "thr_decr": 0.75},
    "apgd-t": {"norm": "Linf", "steps": 100, "n_restarts": 1, "n_target_classes": 9, "eot_iter": 1, "thr_decr": 0.75},
    "fab-t": {"norm": "Linf", "steps": 100, "n_restarts": 1, "n_target_classes": 9, "multi_targeted": True,
              "alpha_max": 0.1, "eta": 1.05, "beta": 0.9},
    "square": {"norm": "Linf", "n_queries": 5000, "n_restarts": 1, "p_init": 0.8, "loss": "margin",
               "rescale_schedule": False},
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


class Linear(nn.Module):
    """Ten classes; a perturbation of 8/255 fools it on some of SMALL, images of 8×8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(10, 3 * 8 * 8, generator=torch.Generator().manual_seed(1))
        self.weights = nn.Parameter(weights)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - 0.5).flatten(1) @ self.weights.T


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


@pytest.mark.parametrize("name", MINIMAL_REFERENCES)
def test_minimal_attacks_equal_torchattacks_called_directly(name: str) -> None:
    model = Linear().eval()
    labels = model(SMALL).argmax(1)
    expected = MINIMAL_REFERENCES[name](model)(SMALL, labels).detach()
    model.zero_grad()
    found = build_attack(name, model.train(), AttackSpec.parse(name).within(THREAT))(SMALL, labels)
    assert torch.equal(found, expected)
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert (model(found).argmax(1) != labels).any()


@pytest.mark.parametrize("label", SEEDED_REFERENCES)
def test_parts_of_autoattack_equal_torchattacks_called_directly(label: str) -> None:
    model = Linear()
    labels = model(SMALL).argmax(1)
    torch.manual_seed(3)
    seed = int(torch.randint(2**31, ()).item())
    expected = SEEDED_REFERENCES[label](model, seed)(SMALL, labels).detach()
    spec = AttackSpec.parse(label)
    attack = build_attack(spec.name, model, spec.within(THREAT))
    torch.manual_seed(3)
    assert torch.equal(attack(SMALL, labels), expected)
    assert (model(expected).argmax(1) != labels).any()


@pytest.mark.parametrize("name", AUTOATTACK)
def test_parts_of_autoattack_have_the_standard_arguments(name: str) -> None:
    attack = ATTACKS[name](Linear(), AttackSpec.parse(name).within(THREAT), 10)
    assert {key: getattr(attack, key) for key in STANDARD[name]} == STANDARD[name]


def test_parts_of_autoattack_follow_the_global_seed() -> None:
    model = Linear()
    labels = model(SMALL).argmax(1)
    attack = build_attack("apgd-ce", model, Threat(8 / 255, 2 / 255, 5))
    torch.manual_seed(3)
    first, second = attack(SMALL, labels), attack(SMALL, labels)
    torch.manual_seed(3)
    assert torch.equal(attack(SMALL, labels), first)
    assert not torch.equal(second, first)


def test_targeted_dlr_needs_four_classes() -> None:
    with pytest.raises(FedShieldError, match=r"apgd-t and autoattack cannot run: .* 4 classes, the model has 2"):
        build_attack("apgd-t", FirstPixel(), THREAT, classes=2)
    with pytest.raises(FedShieldError, match="the model has 3"):
        check_classes(["fgsm", "autoattack"], 3)
    check_classes(["fgsm", "autoattack", "apgd-t-5"], 4)
    check_classes(["fgsm", "pgd-20x5", "square", "deepfool", "apgd-t.py:mine"], 1)


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - MINIMAL_REFERENCES))
def test_stays_in_the_ball_and_among_the_pixels(name: str) -> None:
    # AutoAttack's parts give the image itself back where they fail, so they are given a model that they can fool.
    model = Linear() if name in AUTOATTACK else build_model("resnet18", 10, 2, "silu", True, 1)
    images = SMALL if name in AUTOATTACK else IMAGES
    with torch.no_grad():
        labels = model.eval()(images).argmax(1)
    found = build_attack(name, model, THREAT)(images, labels)
    assert not found.requires_grad
    assert (found - images).abs().max() <= THREAT.epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, images)
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


def test_every_attack_has_a_family_of_the_right_kind() -> None:
    # `kl` is the inner attack of TRADES; `autoattack` is several attacks.
    assert ATTACKS.keys() - {"kl"} == FAMILIES.keys() - {"autoattack"}
    assert {name for name, family in FAMILIES.items() if isinstance(family, Minimal)} == MINIMAL_REFERENCES.keys()
    assert all(isinstance(family, Bounded | Minimal) for family in FAMILIES.values())
