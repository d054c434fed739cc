"""The fast path of training: folded attacks, recorded batches, weights in one copy; on a GPU too, if there is one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from common.attacks.library import attack_mode, build_attack
from common.attacks.threat import Threat
from common.factory import make_federated_method
from common.messages.records import to_record
from common.methods.method import Turn
from common.models.external import borrow
from common.models.folding import Folded, fold_batch_norm
from common.models.modes import keep_statistics, ways_of
from common.models.networks import Normalize, build_model
from common.training.losses import LossContext, TrainingMethod
from common.training.trainer import Trainer, TrainingPlan
from tests.helpers.settings import tiny_config

THREAT = Threat(8 / 255, 2 / 255, 5)
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (72, 3, 32, 32), np.uint8), RNG.integers(0, 10, 72)
METHODS = ("pgd-at", "mixed-at", "trades", "mart", "calfat", "logit-calibrated", "boundary-weighted")


def trained(name: str, activation: str, device: torch.device, width: int = 4) -> nn.Module:
    """Return a network whose statistics and weights have moved."""
    model = build_model(name, 10, width, activation, True, 1).to(device)
    fit(model, method(model, "pgd-at", attack="none"))
    return model


def method(model: nn.Module, loss: str, fast: bool = False, attack: str = "pgd") -> TrainingMethod:
    return TrainingMethod(loss, model, LossContext(attack, THREAT, 0.05, 0.1, class_counts=(0,) * 10, fast=fast))


def fit(
    model: nn.Module, chosen: TrainingMethod, precision: str = "float32", record: bool = False, rows: int = 72
) -> dict[str, Tensor]:
    """Train on two clients in turn, the second with other classes; return what the second has left."""
    trainer = Trainer(model, record)
    for client in (1, 2):
        labels = LABELS[:rows] % (5 * client)
        trainer.fit(IMAGES[:rows], labels, chosen.loss_for(labels), plan(client, precision), client)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def plan(client: int, precision: str = "float32") -> TrainingPlan:
    return TrainingPlan(1, 32, 0.05 / client, 0.9, 2e-4, True, precision)  # type: ignore[arg-type]


def test_one_convolution_does_the_work_of_both() -> None:
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    with torch.no_grad():
        conv.weight.fill_(2)
        conv.bias.fill_(1)  # type: ignore[union-attr]
        norm.weight.fill_(5)
        norm.bias.fill_(7)
        norm.running_mean.fill_(3)  # type: ignore[union-attr]
        norm.running_var.fill_(4)  # type: ignore[union-attr]
    # (2 x + 1 − 3) / √4 × 5 + 7 = 5 x + 2
    weight, bias = fold_batch_norm(conv, norm)
    assert (weight.item(), bias.item()) == (5, 2)


@pytest.mark.parametrize("activation", ["relu", "prelu", "silu"])
@pytest.mark.parametrize("name", ["resnet18", "cnn"])
def test_the_folded_network_computes_the_same(name: str, activation: str, device: torch.device) -> None:
    model = trained(name, activation, device)
    pixels = torch.rand(9, 3, 32, 32, device=device, requires_grad=True)
    with attack_mode(model):
        folded = Folded(model)
        folded.refresh()
        assert torch.allclose(folded(pixels), model(pixels), atol=1e-4, rtol=1e-4)
        there, here = (torch.autograd.grad(net(pixels)[:, 3].sum(), pixels)[0] for net in (folded, model))
    assert (there - here).abs().max() <= 1e-3 * here.abs().max()


def test_the_folded_network_follows_the_weights() -> None:
    model = build_model("cnn", 10, 4, "relu", True, 1).eval()
    folded, pixels = Folded(model), torch.rand(2, 3, 32, 32)
    folded.refresh()
    before = folded(pixels)
    with torch.no_grad():
        model[1].weight.mul_(2)
    folded.refresh()
    assert not torch.allclose(folded(pixels), before)
    assert torch.allclose(folded(pixels), model(pixels), atol=1e-5)


def test_what_somebody_listens_to_is_not_folded() -> None:
    model = build_model("cnn", 10, 4, "relu", True, 1).eval()
    heard: list[int] = []
    model[2].register_forward_hook(lambda module, given, result: heard.append(1))
    folded = Folded(model)
    folded.refresh()
    folded(torch.rand(1, 3, 32, 32))
    assert heard == [1]
    assert not Folded.folds(build_model("cnn2", 10, 4, "relu", True, 1))


def test_a_borrowed_network_folds_where_its_pairs_are_in_a_row() -> None:
    model = borrow("torchvision:mobilenet_v2", Normalize(), {"classes": 10}, 32).eval()
    folded, pixels = Folded(model), torch.rand(2, 3, 32, 32)
    folded.refresh()
    assert sum(isinstance(part, nn.BatchNorm2d) for part in folded.modules()) < 18
    assert torch.allclose(folded(pixels), model(pixels), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("name", "direct"), [("pgd", torchattacks.PGD), ("kl", torchattacks.TPGD)])
@pytest.mark.parametrize("width", [4, 16])
def test_the_fast_attack_is_torchattacks_up_to_rounding(
    name: str, direct: Callable[..., torchattacks.attack.Attack], width: int, device: torch.device
) -> None:
    model = trained("resnet18", "relu", device, width).train()
    images, labels = torch.rand(32, 3, 32, 32, device=device), torch.randint(0, 10, (32,), device=device)
    ways, state = ways_of(model), {part: value.clone() for part, value in model.state_dict().items()}
    made = []
    for attack in (
        build_attack(name, model, THREAT, fast=True),
        direct(model.eval(), eps=8 / 255, alpha=2 / 255, steps=5),
    ):
        torch.manual_seed(1)
        made.append(attack(images, labels))
    with torch.no_grad():
        costs = [F.cross_entropy(model(adversarial), labels).item() for adversarial in made]
    if name == "pgd":  # the KL divergence begins at its minimum, where a gradient's sign is a matter of rounding
        assert ((made[0] - made[1]).abs() > 1e-6).float().mean() < 1e-3
    assert costs[0] == pytest.approx(costs[1], abs=1e-4)
    assert ways_of(model) == ways
    assert all(torch.equal(value, state[part]) for part, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_the_random_start_is_drawn_as_before() -> None:
    model = build_model("cnn", 10, 4, "relu", True, 1)
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    starts = []
    for fast in (False, True):
        torch.manual_seed(1)
        starts.append(build_attack("pgd", model, Threat(8 / 255, 0.0, 1), fast=fast)(images, labels))
    assert torch.equal(*starts)
    assert not torch.equal(starts[0], images)


def test_an_attack_in_bfloat16_is_one_in_float32_but_for_its_rounding(device: torch.device) -> None:
    model = trained("cnn", "relu", device, 8).train()
    images, labels = torch.rand(64, 3, 32, 32, device=device), torch.randint(0, 10, (64,), device=device)
    context = LossContext("pgd", THREAT, 0.0, 0.0, class_counts=(0,) * 10)
    costs = []
    for half in (False, True):
        torch.manual_seed(1)
        made = replace(context, half=half).build_attack(model)(images, labels)
        assert made.dtype == torch.float32
        assert (made - images).abs().max() <= 8 / 255 + 1e-6
        with torch.no_grad(), attack_mode(model):
            costs.append(F.cross_entropy(model(made), labels).item())
    assert costs[0] != costs[1]
    assert costs[0] == pytest.approx(costs[1], rel=0.01)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("loss", METHODS)
def test_a_recorded_batch_gives_the_bits_of_an_eager_one(
    loss: str, precision: str, fast: bool, device: torch.device
) -> None:
    left = []
    width, rows = (8, 72) if device.type == "cuda" else (2, 32)  # a CPU records nothing: it only repeats itself
    for record in (False, True, True):
        model = build_model("resnet18", 10, width, "relu", True, 1).to(device)
        left.append(fit(model, method(model, loss, fast), precision, record, rows))
    assert all(torch.equal(left[0][name], left[1][name]) for name in left[0])
    assert all(torch.equal(left[1][name], left[2][name]) for name in left[0])


@pytest.mark.parametrize("loss", METHODS)
@pytest.mark.parametrize("name", ["cnn", "resnet18"])
def test_a_method_is_the_same_with_the_fast_attack(name: str, loss: str, device: torch.device) -> None:
    model, values = trained(name, "relu", device), []
    for fast in (False, True):
        chosen = method(model, loss, fast).loss_for(LABELS)
        for rows in (slice(0, 8), slice(8, 16), slice(16, 21)):  # the last batch of a client is smaller
            images = torch.from_numpy(IMAGES[rows] / np.float32(255)).to(device)
            labels = torch.from_numpy(LABELS[rows].copy()).to(device)
            with torch.no_grad(), attack_mode(model):
                labels[::2] = model(images[::2]).argmax(1)  # half of them right: images at all distances
            torch.manual_seed(1)
            with keep_statistics(model):
                values.append(chosen(images, labels).item())
    assert values[:3] == pytest.approx(values[3:], rel=5e-3)  # rounding turns some signs


@pytest.mark.parametrize("name", ["fedprox", "scaffold", "feddyn", "mixfat", "moon", "dbfat"])
def test_a_recorded_batch_of_a_federated_method_gives_the_bits_of_an_eager_one(name: str, device: torch.device) -> None:
    left = []
    for record in (False, True):
        model = build_model("resnet18", 10, 8 if device.type == "cuda" else 2, "relu", True, 1).to(device)
        trainer, local = Trainer(model, record), method(model, "pgd-at", True)
        federated = make_federated_method(tiny_config(method__name=name, method__prox_mu=0.5, method__dyn_alpha=0.5))
        for client in (1, 2):  # each starts from weights of its own, and has kept other arrays
            received = {key: value.cpu() + client / 1000 for key, value in model.state_dict().items()}
            kept = {key: value * client for key, value in received.items()}
            turn = Turn(client, 1, model, trainer.names, received, {}, plan(client), kept)
            loss, pull = federated.loss(turn, local.loss_for(LABELS)), federated.pull(turn)
            trainer.fit(IMAGES, LABELS, loss, turn.plan, client, pull=pull)
        left.append({key: value.clone() for key, value in model.state_dict().items()})
    assert all(torch.equal(left[0][key], left[1][key]) for key in left[0])


@pytest.mark.parametrize("loss", METHODS)
def test_a_method_that_is_built_once_leaves_nothing_of_a_client(loss: str, device: torch.device) -> None:
    left = []
    for again in (False, True):
        model = build_model("cnn", 10, 4, "relu", True, 1).to(device)
        once = method(model, loss)
        if again:  # another client's classes first; then the network as it was
            fit(model, once)
            model.load_state_dict(build_model("cnn", 10, 4, "relu", True, 1).state_dict())
        left.append(fit(model, once))
    assert all(torch.equal(left[0][name], left[1][name]) for name in left[0])


def test_weights_leave_the_device_as_they_are(device: torch.device) -> None:
    model = trained("resnet18", "prelu", device)
    record = to_record(model.state_dict())
    assert list(record) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        values = record[name].numpy()
        assert values.flags.c_contiguous
        assert np.array_equal(values, tensor.cpu().numpy())
        assert values.dtype == tensor.cpu().numpy().dtype
