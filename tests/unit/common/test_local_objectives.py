"""Methods that change the local objective: their equations worked out by hand, and what they cost."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.attacks.threat import Threat
from common.config.schema import parse_config
from common.errors import FedShieldError
from common.factory import make_federated_method, make_method, make_model
from common.methods.feddyn import FedDyn
from common.methods.method import Arrays, Method, Turn
from common.methods.networks import OtherWeights
from common.models.flops import FlopCounter, model_cost, trained_images, training_passes
from common.training.calibration import label_margins
from common.training.losses import LOSSES, Loss, LossContext, TrainingMethod
from common.training.trainer import TrainingPlan
from tests.helpers.fixed import Fixed
from tests.helpers.runs import figures, run, same, weights
from tests.helpers.settings import Threshold, tiny_config, tiny_flat

PLAN = TrainingPlan(1, 10, 0.1, momentum=0.0, weight_decay=0.0, augment=False, precision="float32")


def method_of(name: str, **changes: object) -> Method:
    return make_federated_method(tiny_config(method__name=name, **changes))


def turn_of(
    model: nn.Module, kept: Arrays | None = None, received: Arrays | None = None, server_round: int = 1
) -> Turn:
    state = {name: array.clone() for name, array in model.state_dict().items()}
    names = [name for name, _ in model.named_parameters()]
    return Turn(0, 1, model, names, received or state, {}, PLAN, kept or {})


class Turned(nn.Module):
    """Features (a x, b x) of an image with the single value x, and logits that are their sum and 0."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.way = nn.Parameter(torch.tensor([float(first), float(second)]))
        self.head = nn.Linear(2, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(pixels[:, 0, 0, :1] * self.way)
        return logits


def test_moon_by_hand() -> None:
    # Features of every image: (1, 0) trained, (1, 1) global, (0, 1) in the last turn. Cosines 1 / √2 and 0, τ = 0.5:
    # ℓ = log(1 + exp((0 − 0.7071) / 0.5)); μ = 3.
    model = Turned(1, 0)
    turn = turn_of(model, dict(Turned(0, 1).state_dict()), dict(Turned(1, 1).state_dict()))
    method = method_of("moon", method__moon_mu=3.0, method__moon_temperature=0.5)

    def local(images: Tensor, labels: Tensor) -> Tensor:
        return 0 * model(images).sum() + 2.0

    value = method.loss(turn, local)(torch.rand(4, 3, 1, 1) + 0.1, torch.zeros(4, dtype=torch.int64))
    assert value.item() == pytest.approx(2 + 3 * math.log(1 + math.exp(-math.sqrt(2))))
    # dℓ/ds_glob = −σ(−√2) / τ and dℓ/ds_prev = +σ(−√2) / τ; at (1, 0) the second feature moves s_glob by 1 / √2 and
    # s_prev by 1, the first moves neither.
    (gradient,) = torch.autograd.grad(value, [model.way])
    pull = 3 * (1 - 1 / math.sqrt(2)) / 0.5 / (1 + math.exp(math.sqrt(2)))
    assert gradient.tolist() == pytest.approx([0, pull], abs=1e-6)


def test_moon_has_no_gradient_in_a_first_turn_and_keeps_the_trained_model() -> None:
    model, method = Turned(1, 0), method_of("moon", method__moon_mu=1.0)
    turn = turn_of(model)

    def local(images: Tensor, labels: Tensor) -> Tensor:
        return 0 * model(images).sum()

    value = method.loss(turn, local)(torch.rand(4, 3, 1, 1) + 0.1, torch.zeros(4, dtype=torch.int64))
    assert value.item() == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(value, [model.way])
    assert gradient.abs().max() < 1e-6
    model.way.data.fill_(5.0)
    assert method.after(turn) == {}
    assert turn.kept["way"].tolist() == [5.0, 5.0]
    assert turn.kept.keys() == model.state_dict().keys()


def test_moon_takes_the_features_of_the_images_that_train_and_not_of_those_in_an_attack() -> None:
    model, method = Turned(1, 1), method_of("moon")
    seen = []

    def local(images: Tensor, labels: Tensor) -> Tensor:
        model.eval()
        model(images + 1)  # an attack's pass
        model.train()
        return model(images + 2).sum() + model(images + 3).sum()

    contrast = method.loss(turn_of(model), local)
    for other in contrast.others:  # type: ignore[attr-defined]
        other._model.register_forward_pre_hook(lambda part, given: None if part.training else seen.append(given[0]))
        break
    images = torch.zeros(2, 3, 1, 1)
    contrast(images, torch.zeros(2, dtype=torch.int64))
    assert [sorted(set(given.flatten().tolist())) for given in seen] == [[1.0], [2.0, 3.0], [2.0, 3.0]]


def test_moon_is_the_same_loss_for_the_same_local_one_so_that_it_is_recorded_once() -> None:
    config = tiny_config(method__name="moon", loss__name="pgd-at")
    model = make_model(config, 10)
    method, losses = make_federated_method(config), make_method(config, model, 10)
    labels = torch.arange(4).numpy()
    first = method.loss(turn_of(model), losses.loss_for(labels))
    places = [place.data_ptr() for place in first.others[0]._places.values()]  # type: ignore[attr-defined]
    again = method.loss(turn_of(model), losses.loss_for(labels[:2]))
    assert again == first
    assert [place.data_ptr() for place in again.others[0]._places.values()] == places  # type: ignore[attr-defined]


def test_other_weights_compute_what_another_model_does_and_leave_this_one_alone() -> None:
    config = tiny_config(model__name="resnet18")
    model, other = make_model(config, 10), make_model(config, 10).eval()
    torch.manual_seed(1)
    for array in other.state_dict().values():
        if array.is_floating_point():
            array.add_(0.1 * torch.rand_like(array))
    before = {name: array.clone() for name, array in model.state_dict().items()}
    run = OtherWeights(model)
    run.load(dict(other.state_dict()))
    pixels = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(run(pixels), other(pixels))
    assert all(torch.equal(array, before[name]) for name, array in model.state_dict().items())
    assert all(part.training for part in model.modules())


def test_moon_says_what_is_wrong_with_a_network() -> None:
    with pytest.raises(FedShieldError, match=r"last nn\.Linear, and this network has none"):
        method_of("moon").check(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()))
    model = Turned(1, 0).eval()

    def local(images: Tensor, labels: Tensor) -> Tensor:
        return model(images).sum()

    with pytest.raises(FedShieldError, match="calls the network in training mode 0 times"):
        method_of("moon").loss(turn_of(model), local)(torch.rand(2, 3, 1, 1), torch.zeros(2, dtype=torch.int64))


def test_feddynat_has_fewer_and_fewer_epochs_and_at_least_one() -> None:
    method = method_of("feddynat", method__dynat_epochs=5, method__dynat_decay=0.6, method__dynat_every=2)
    # 5, 5 × 0.6 = 3, 5 × 0.36 = 1.8, 5 × 0.216 = 1.08, 5 × 0.1296 = 0.648
    expected = [5, 5, 3, 3, 2, 2, 1, 1, 1, 1]
    for server_round, epochs in enumerate(expected, 1):
        turn = turn_of(Turned(1, 0))
        turn.server_round = server_round
        method.before(turn)
        assert turn.plan == replace(PLAN, epochs=epochs)
    assert isinstance(method, FedDyn)
    assert method.keeps
    assert method.combines()


def cost_of(method: Method, loss: Loss, model: nn.Module) -> float:
    """Count what a batch costs, in forward passes for each image."""
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    loss(images, labels)  # the first one tries once whether the network may be folded
    with FlopCounter() as counter:
        torch.autograd.grad(loss(images, labels), list(model.parameters()))
    return counter.total / len(images) / model_cost(model, 32).flops


@pytest.mark.parametrize(
    ("name", "loss", "expected"),
    [("moon", "mixed-at", 8 + 4), ("mixfat", "pgd-at", 0.5 * 5 + 0.5 * 3), ("dbfat", "boundary-weighted", 5 + 1)],
)
def test_a_method_costs_as_many_passes_as_torch_counts(name: str, loss: str, expected: float) -> None:
    changes = {"loss__name": loss, "attack__steps": 1, "model__name": "resnet18", "model__width": 8}
    config = parse_config(tiny_flat(**changes, method__name=name, method__mix_share=0.5))
    model = make_model(config, 10).train()
    method = make_federated_method(config)
    local = training_passes(loss, "pgd", 1)
    assert local is not None
    assert method.passes(local, trained_images(loss)) == expected
    step = method.loss(turn_of(model), make_method(config, model, 10).loss_for(torch.arange(4).numpy()))
    assert cost_of(method, step, model) == pytest.approx(expected, rel=0.03)


def test_feddynat_tells_its_epochs_and_trains_as_many(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = {"method__dynat_epochs": 2, "method__dynat_every": 1, "federation__rounds": 2, "method__dyn_alpha": 1.0}
    with caplog.at_level("INFO", logger="fedshield"):
        path = run(tmp_path, "falling", method__name="feddynat", **changes)
    assert "feddynat: 2 local epochs in round 1, 1 in round 2; train.local-epochs is not used" in caplog.text
    first = {**changes, "federation__rounds": 1}
    dyn = run(tmp_path, "dyn", method__name="feddyn", train__local_epochs=2, **first)
    assert figures(path)[0] == figures(dyn)[0]


def test_a_run_tells_before_its_first_round_that_a_method_cannot_train_its_network(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def network(classes, width, activation):\n"
        "    return nn.Sequential(nn.Conv2d(3, classes, 32), nn.Flatten())\n"
    )
    with pytest.raises(FedShieldError, match="this network has none; take another"):
        run(tmp_path, "headless", model__name=f"{tmp_path / 'own.py'}:network", method__name="moon")


def test_the_logit_calibrated_loss_by_hand() -> None:
    # n = 16, 256 and none; τ = 2: margins 2 / 2 = 1, 2 / 4 = 0.5 and 2 × 100. Logits 0, 0.5 and 7 are then −1, 0, −193:
    # the loss of class 0 is log(1 + e) and of class 1 log(1 + 1 / e).
    context = LossContext("none", Threat(8 / 255, 2 / 255, 3), 0.3, 0.0, margin_tau=2.0, class_counts=(16, 256, 0))
    model = Fixed(0.0, 0.5, 7.0)
    loss = LOSSES["logit-calibrated"](model, context)
    for label, expected in ((0, math.log(1 + math.e)), (1, math.log(1 + 1 / math.e))):
        value = loss(torch.zeros(1, 3, 2, 2), torch.tensor([label]))
        assert value.item() == pytest.approx(expected)
        (gradient,) = torch.autograd.grad(value, [model.logits])
        assert gradient[2] == 0


def test_the_logit_calibrated_loss_follows_each_clients_classes() -> None:
    context = LossContext("none", Threat(8 / 255, 2 / 255, 3), 0.0, 0.0, class_counts=(0, 0))
    method = TrainingMethod("logit-calibrated", Fixed(0.0, 0.0), context)
    images, labels = torch.zeros(1, 3, 2, 2), torch.tensor([0])
    for counts, gap in (((1, 1), 0.0), ((1, 16), 0.5)):
        loss = method.loss_for(np.repeat([0, 1], counts))
        assert loss(images, labels).item() == pytest.approx(math.log(1 + math.exp(gap)))


def test_the_margins_are_those_of_public_code_for_fedlc() -> None:
    # FL-bench (github.com/KarhouTam/FL-bench, src/client/fedlc.py), written out.
    torch.manual_seed(1)
    logits, labels, counts = torch.randn(6, 3), torch.tensor([0, 1, 1, 0, 0, 1]), torch.tensor([5.0, 30.0, 1e-8])
    calibrated = torch.exp(logits - 1.5 * torch.pow(counts, -1 / 4).unsqueeze(0).expand((6, -1)))
    theirs = -torch.log(torch.gather(calibrated, -1, labels.unsqueeze(1)) / calibrated.sum(-1, keepdim=True))
    ours = nn.functional.cross_entropy(logits + label_margins((5, 30, 0), 1.5), labels)
    assert ours.item() == pytest.approx(theirs.mean().item(), rel=1e-5)


def test_images_near_the_boundary_count_more() -> None:
    # The class changes where the first pixel is 128/255, and a step moves it by 2/255. At 1, 3, 10 and −1 (in 1/255)
    # from there, 1, 2, 3 and 0 of three steps begin with a right answer: 4 − d is 3, 2, 1 and 4, with a mean of 2.5.
    images = torch.zeros(4, 3, 4, 4)
    images[:, 0, 0, 0] = (128 + torch.tensor([1.0, 3.0, 10.0, -1.0])) / 255
    labels, model = torch.ones(4, dtype=torch.int64), Threshold()
    context = LossContext("bim", Threat(8 / 255, 2 / 255, 3), label_smoothing=0.0, noise_std=0.0)
    value = LOSSES["boundary-weighted"](model, context)(images, labels)
    images[:, 0, 0, 0] -= 6 / 255
    each = nn.functional.cross_entropy(model(images), labels, reduction="none")
    assert value.item() == pytest.approx((torch.tensor([1.2, 0.8, 0.4, 1.6]) * each).mean().item(), rel=1e-5)


def test_dbfat_by_hand() -> None:
    # The client answers (1/4, 3/4), the global model (1/2, 1/2): KL = ½ log(½ / ¼) + ½ log(½ / ¾) = ½ log(4 / 3).
    model = Fixed(0.0, math.log(3))
    turn = turn_of(model, received={"logits": torch.zeros(2)})

    def local(images: Tensor, labels: Tensor) -> Tensor:
        return 0 * model(images).sum() + 2.0

    loss = method_of("dbfat", method__dbfat_beta=3.0).loss(turn, local)
    value = loss(torch.zeros(5, 3, 2, 2), torch.zeros(5, dtype=torch.int64))
    assert value.item() == pytest.approx(2 + 1.5 * math.log(4 / 3))
    # The gradient of KL(g ‖ f) by the logits is f − g.
    (gradient,) = torch.autograd.grad(value, [model.logits])
    assert gradient.tolist() == pytest.approx([-0.75, 0.75])


def test_dbfat_begins_with_the_global_models_answers(tmp_path: Path) -> None:
    whole = {"method__name": "dbfat", "loss__name": "boundary-weighted", "federation__rounds": 1}
    path = run(tmp_path, "whole", **whole)
    local = run(tmp_path, "local", **{**whole, "method__dbfat_beta": 0.0})
    plain = run(tmp_path, "plain", **{**whole, "method__name": "fedavg"})
    assert same(weights(local), weights(plain))
    assert not same(weights(path), weights(plain))


def test_a_loss_that_counts_steps_needs_an_attack_with_steps() -> None:
    with pytest.raises(FedShieldError, match=r"attack\.name = fgsm: loss\.name = boundary-weighted counts the steps"):
        tiny_config(loss__name="boundary-weighted", attack__name="fgsm")
