"""AWP: a step by hand, one attack for both passes, and nothing of the perturbation left behind."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.attacks.threat import Threat
from common.models.flops import FlopCounter, model_cost, training_passes
from common.models.networks import build_model
from common.training.awp import WeightPerturbation
from common.training.losses import LOSSES, LossContext, TrainingMethod
from common.training.trainer import Trainer, TrainingPlan

PLAN = TrainingPlan(1, 8, 0.1, momentum=0.0, weight_decay=0.0, augment=False, precision="float32")
THREAT = Threat(8 / 255, 2 / 255, 2)
IMAGES = np.random.default_rng(1).integers(0, 256, (24, 3, 32, 32), np.uint8)
LABELS = np.arange(24) % 10


def test_a_step_by_hand() -> None:
    # L = (w x + b)² / 2 at x = (1, 0, 1), w = (3, 0, 4), b = 0: g = 7 (1, 0, 1). With γ = 0.1 and ‖w‖ = 5,
    # v = 0.5 (1, 0, 1) / √2; at w + v, w x = 7 + 1 / √2 = 7.70711. That is the gradient of b and of w's first and last.
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 1))
    model[1].weight.data = torch.tensor([[3.0, 0.0, 4.0]])
    model[1].bias.data.zero_()
    seen: list[float] = []

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(model(images).item())
        return model(images).square().sum() / 2

    images = np.array([255, 0, 255], np.uint8).reshape(1, 3, 1, 1)
    found = Trainer(model, awp=WeightPerturbation(model, 0.1)).fit(images, np.zeros(1, np.int64), loss, PLAN, 1)
    assert seen == pytest.approx([7, 7.70711])
    assert found.loss == pytest.approx(7.70711**2 / 2)
    assert model[1].weight[0].tolist() == pytest.approx([3 - 0.770711, 0, 4 - 0.770711])
    assert model[1].bias.item() == pytest.approx(-0.770711)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_attacks_once_a_step_and_counts_it_once(loss: str) -> None:
    model = build_model("cnn", 10, 2, "relu", True, 1)
    awp = WeightPerturbation(model, 0.01)
    calls: list[int] = []

    class Counting(WeightPerturbation):
        def remember(self, attack):  # type: ignore[no-untyped-def]
            def counted(images: Tensor, labels: Tensor) -> Tensor:
                calls.append(len(images))
                return attack(images, labels)

            return awp.remember(counted)

    context = LossContext("pgd", THREAT, 0.05, 0.1, class_counts=(0,) * 10, awp=Counting(model, 0.01))
    local = TrainingMethod(loss, model, context).loss_for(LABELS)
    Trainer(model, awp=awp).fit(IMAGES, LABELS, local, PLAN, 1)
    assert calls == [8, 8, 8]
    passes = 2 if loss in {"trades", "mart"} else 1
    counters = {name: int(value) for name, value in model.state_dict().items() if name.endswith("tracked")}
    assert counters
    assert set(counters.values()) == {3 * passes}


def test_the_weights_come_back_to_the_bit() -> None:
    model = build_model("cnn", 10, 2, "relu", True, 1).train()
    before = {name: value.clone() for name, value in model.state_dict().items() if not name.endswith("tracked")}
    weights = list(model.parameters())
    moved: list[bool] = []

    def find() -> tuple[Tensor, list[Tensor]]:
        value = model(torch.from_numpy(IMAGES[:8]) / 255).square().mean()
        moved.append(any(not torch.equal(now, before[name]) for name, now in model.named_parameters()))
        return value, list(torch.autograd.grad(value, weights))

    _, gradients = WeightPerturbation(model, 0.01).at_worst(weights, find)
    assert moved == [False, True]
    assert all(gradient is not None for gradient in gradients)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_recorded_step_gives_the_bits_of_an_eager_one(device: torch.device) -> None:
    left = []
    for record in (False, True):
        model = build_model("resnet18", 10, 8 if device.type == "cuda" else 2, "relu", True, 1).to(device)
        awp = WeightPerturbation(model, 0.01)
        method = TrainingMethod("trades", model, LossContext("pgd", THREAT, 0, 0, class_counts=(0,) * 10, awp=awp))
        Trainer(model, record, awp).fit(IMAGES, LABELS, method.loss_for(LABELS), PLAN, 1)
        left.append({name: value.clone() for name, value in model.state_dict().items()})
    assert all(torch.equal(left[0][name], left[1][name]) for name in left[0])


def values_of(name: str, fast: bool, gamma: float) -> list[float]:
    """Return a new network's loss on two batches in turn, at w + v where gamma is above 0."""
    model = build_model("cnn", 10, 4, "relu", True, 1).train()
    awp, weights = WeightPerturbation(model, gamma) if gamma else None, list(model.parameters())
    context = LossContext("pgd", THREAT, 0, 0, class_counts=(0,) * 10, fast=fast, awp=awp)
    loss, values = TrainingMethod(name, model, context).loss_for(LABELS), []
    for rows in (slice(0, 8), slice(8, 13)):

        def find(rows: slice = rows) -> tuple[Tensor, tuple[Tensor, ...]]:
            value = loss(torch.from_numpy(IMAGES[rows]) / 255, torch.from_numpy(LABELS[rows]))
            return value, torch.autograd.grad(value, weights)

        torch.manual_seed(1)
        values.append((find() if awp is None else awp.at_worst(weights, find))[0].item())
    return values


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_weights_that_hardly_move_give_the_loss_without_awp(name: str, fast: bool) -> None:
    assert values_of(name, fast, gamma=1e-9) == pytest.approx(values_of(name, fast, gamma=0), rel=1e-4)


def test_a_step_costs_a_training_pass_more() -> None:
    model = build_model("resnet18", 10, 8, "relu", True, 1).train()
    awp = WeightPerturbation(model, 0.01)
    loss = TrainingMethod("pgd-at", model, LossContext("pgd", THREAT, 0, 0, class_counts=(0,) * 10, awp=awp)).loss_for(
        LABELS
    )
    weights, images = list(model.parameters()), torch.from_numpy(IMAGES[:4]) / 255

    def find() -> tuple[Tensor, tuple[Tensor, ...]]:
        value = loss(images, torch.arange(4))
        return value, torch.autograd.grad(value, weights)

    with FlopCounter() as counter:
        awp.at_worst(weights, find)
    expected = (training_passes("pgd-at", "pgd", 2) or 0) + 3
    assert counter.total / 4 / model_cost(model, 32).flops == pytest.approx(expected, rel=0.03)
