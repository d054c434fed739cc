"""Attacks in the L2 ball: by hand on a linear model, against torchattacks itself, and what never leaves the ball."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.attacks.l2 import direction, lengths, shortened
from common.attacks.library import build_attack
from common.attacks.mixture import build_training_attack
from common.attacks.threat import L2, LINF, Threat, radius
from common.config.flat import default_config
from common.config.schema import parse_config
from common.errors import FedShieldError
from common.evaluation.curve_checks import find_curve_warnings
from common.evaluation.evaluate import evaluate
from common.models.networks import build_model
from common.training.losses import LOSSES, LossContext

THREAT = Threat(0.5, 0.1, 10, L2)
EVERY = ("fgsm", "bim", "pgd", "kl", "cw", "apgd-ce", "apgd-t", "fab-t", "square")

pytestmark = pytest.mark.usefixtures("one_thread")


class Plane(nn.Module):
    """Two or more classes, of which the first two are parted by a plane: z_0 - z_1 = 2 w (x - 1/2), |w| = 1."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((192,), 192**-0.5), requires_grad=False)
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        beyond = (images - 0.5).flatten(1) @ self.weight
        return torch.stack([beyond, -beyond, *[beyond * 0 - 9 - n for n in range(self.classes - 2)]], 1)


def at(distance: float, count: int = 4) -> Tensor:
    """Images of class 0 that are so far, in L2, from the plane."""
    return torch.full((count, 3, 8, 8), 0.5 + distance * 192**-0.5)


@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "cw", "apgd-ce", "fab-t", "apgd-t"])
def test_an_image_is_broken_exactly_within_its_distance_to_the_boundary(name: str) -> None:
    model, labels = Plane(4), torch.zeros(4, dtype=torch.int64)
    for distance, broken in ((0.49, True), (0.51, False)):
        images = at(distance)
        threat = replace(THREAT, steps=20) if name in ("bim", "pgd", "cw") else replace(THREAT, steps=0)
        adversarial = build_attack(name, model, threat, classes=4)(images, labels)
        assert (model(adversarial).argmax(1) != labels).tolist() == [broken] * 4


def test_one_step_has_the_length_of_epsilon_along_the_gradient() -> None:
    adversarial = build_attack("fgsm", Plane(), THREAT)(at(0.1), torch.zeros(4, dtype=torch.int64))
    assert adversarial == pytest.approx(at(0.1 - 0.5), abs=1e-6)


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    return build_model("cnn", 10, 4, "relu", True, 1).eval(), torch.rand(6, 3, 32, 32), torch.arange(6)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("pgd", lambda m: torchattacks.PGDL2(m, eps=0.5, alpha=0.1, steps=10)),
        ("bim", lambda m: torchattacks.PGDL2(m, eps=0.5, alpha=0.1, steps=10, random_start=False)),
        ("fgsm", lambda m: torchattacks.PGDL2(m, eps=0.5, alpha=0.5, steps=1, random_start=False)),
    ],
)
def test_torchattacks_finds_the_same(name: str, theirs: object, network: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = network
    torch.manual_seed(3)
    own = build_attack(name, model, THREAT)(images, labels)
    torch.manual_seed(3)
    assert (own - theirs(model)(images, labels)).abs().max() < 1e-5  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [
        ("apgd-ce", "APGD", {"steps": 10, "loss": "ce"}),
        ("apgd-t", "APGDT", {"steps": 10}),
        ("fab-t", "FAB", {"steps": 10, "multi_targeted": True}),
        ("square", "Square", {"n_queries": 10, "resc_schedule": False}),
    ],
)
def test_the_parts_of_autoattack_get_the_norm(
    name: str, kind: str, more: dict[str, object], network: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, images, _ = network
    labels = model(images).argmax(1)
    attack = getattr(torchattacks, kind)(model, norm="L2", eps=0.5, **more)
    torch.manual_seed(3)
    own = build_attack(name, model, THREAT)(images, labels)
    torch.manual_seed(3)
    attack.seed = int(torch.randint(2**31, ()).item())
    assert torch.equal(own, attack(images, labels).detach())


@pytest.mark.parametrize("name", EVERY)
def test_no_attack_leaves_the_ball(name: str, network: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, _ = network
    labels = model(images).argmax(1)
    adversarial = build_attack(name, model, THREAT)(images, labels)
    assert lengths(adversarial - images).max() <= 0.5 + 1e-5
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1


@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "kl", "cw", "deepfool", "mixture"])
def test_training_attacks_stay_in_the_ball_on_a_folded_network_too(
    name: str, network: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, images, labels = network
    mixture = (("pgd", 1.0), ("cw", 1.0))
    torch.manual_seed(3)
    fast = build_training_attack(name, model, THREAT, mixture, fast=True)(images, labels)
    torch.manual_seed(3)
    slow = build_training_attack(name, model, THREAT, mixture)(images, labels)
    assert lengths(fast - images).max() <= 0.5 + 1e-5
    assert lengths(fast - slow).max() < 0.05  # of 0.5: rounding decides where a gradient is nearly zero


def test_a_very_small_gradient_still_makes_a_whole_step(network: tuple[nn.Module, Tensor, Tensor]) -> None:
    tiny = torch.full((1, 3, 2, 2), 1e-30)
    assert lengths(direction(tiny)).item() == pytest.approx(1)
    assert direction(torch.zeros(1, 3, 2, 2)).abs().max() == 0


def test_epsilon_zero_changes_nothing(network: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = network
    assert torch.equal(build_attack("pgd", model, Threat(0.0, 0.1, 2, L2))(images, labels), images)


@given(st.lists(st.floats(-4, 4, width=32), min_size=12, max_size=12), st.floats(0.01, 9))
def test_the_projection_is_the_nearest_point_of_the_ball(numbers: list[float], epsilon: float) -> None:
    change = torch.tensor(numbers).reshape(1, 3, 2, 2)
    short = shortened(change, epsilon)
    if lengths(change) <= epsilon:
        assert short == pytest.approx(change, abs=1e-6)
    else:
        assert lengths(short).item() == pytest.approx(epsilon, rel=1e-5)
        assert (short * lengths(change)).flatten().tolist() == pytest.approx(
            (change * lengths(short)).flatten().tolist(), abs=1e-4
        )


@pytest.mark.parametrize("method", list(LOSSES))
def test_each_method_trains_in_l2(method: str, network: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = network
    context = LossContext("pgd", THREAT, 0.1, 0.01, class_counts=(1,) * 10)
    assert torch.isfinite(LOSSES[method](model, context)(images, labels))


def test_the_evaluation_measures_in_l2() -> None:
    near, far = at(0.3), at(0.7)
    images = (255 * torch.cat([near, far])).round().byte().numpy()
    found = evaluate(Plane(4), images, np.zeros(8, np.int64), ("pgd-20", "autoattack"), THREAT, 1)
    assert found.masks()["pgd-20"].tolist() == found.masks()["autoattack"].tolist() == [False] * 4 + [True] * 4


def test_lengths_beyond_the_range_of_a_pixel_are_for_l2_alone() -> None:
    for key in ("attack.epsilon-255", "attack.step-255", "evaluate.step-255"):
        assert parse_config({**default_config(), "attack.norm": L2, key: 300.0}).attack.norm == L2
        with pytest.raises(FedShieldError, match=rf"{key} = 300: .* attack\.norm = linf; set 255 or less"):
            parse_config({**default_config(), key: 300.0})


def test_the_norm_is_in_every_label_and_warning() -> None:
    assert (radius(8, LINF), radius(127.5, L2)) == ("8/255 (Linf)", "0.5 (L2; 127.5/255)")
    labels = np.arange(100) % 10
    everything = {64.0: np.ones(100, bool), 4000.0: np.ones(100, bool)}
    assert "3542" not in "".join(found := find_curve_warnings(everything, labels, L2, 3072))
    assert len(found) == 1
    assert "15.69 (L2; 4000/255)" in found[0]  # 64/255 of each of the 3,072 numbers is an L2 length of 13.9
    assert find_curve_warnings({3500.0: np.ones(100, bool)}, labels, L2, 3072) == ()
