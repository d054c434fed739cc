"""Personal models: which arrays stay with a client, and how they are trained, worked out by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import FedShieldError
from common.factory import make_federated_method
from common.methods.checks import names_that_stay
from common.methods.method import Arrays, Method, Reply, Turn
from common.models.networks import build_model
from common.training.losses import Loss
from common.training.pull import LinearPull, Pull
from common.training.trainer import FitResult, Trainer, TrainingPlan
from tests.helpers.settings import tiny_config


def stay(name: str, model: nn.Module) -> frozenset[str]:
    return names_that_stay(make_federated_method(tiny_config(method__name=name)), model)


def network(name: str, activation: str = "relu") -> nn.Module:
    return build_model(name, 10, 2, activation, True, seed=1)


def test_batch_normalization_stays_with_its_statistics_and_counters() -> None:
    places = ("2", "5", "8")  # of the cnn: pixels, then three times convolution, normalization, activation
    arrays = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert stay("fedbn", network("cnn")) == {f"{place}.{array}" for place in places for array in arrays}
    model = network("torchvision:resnet18")
    assert stay("fedbn", model) == {name for name in model.state_dict() if ".bn" in name or ".downsample.1." in name}


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_the_last_layer_stays(activation: str) -> None:
    assert stay("fedper", network("cnn", activation)) == {"11.weight", "11.bias"}
    assert stay("fedper", network("cnn2")) == {"12.weight", "12.bias"}
    assert stay("fedper", network("torchvision:vgg11_bn")) == {"1.classifier.6.weight", "1.classifier.6.bias"}
    assert stay("fedavg", network("cnn")) == frozenset()


def test_a_network_without_such_arrays_is_refused_in_one_line() -> None:
    with pytest.raises(FedShieldError, match=r"^method.name = fedbn: the network has no batch normalization .*choose"):
        stay("fedbn", network("cnn2"))
    with pytest.raises(
        FedShieldError, match=r"^method.name = fedper: .*no layer that could be shared beside its last one"
    ):
        stay("fedper", nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))


def test_a_users_method_that_names_other_arrays_is_refused_in_one_line() -> None:
    class Own(Method):
        keeps = personal = True
        names = ("0.weight",)

        def stays(self, model: nn.Module) -> tuple[str, ...]:
            return self.names

    model, own = nn.Sequential(nn.Linear(3, 2)), Own(make_federated_method(tiny_config()).context)
    assert names_that_stay(own, model) == {"0.weight"}
    own.names = ("head.weight",)
    with pytest.raises(FedShieldError, match=r"stays names head.weight, which the network does not have"):
        names_that_stay(own, model)
    own.names, own.personal = ("0.weight",), False
    with pytest.raises(FedShieldError, match=r"set keeps = True and personal = True"):
        names_that_stay(own, model)
    assert torch.is_tensor(model.state_dict()["0.weight"])


IMAGES, LABELS = np.zeros((4, 3, 2, 2), np.uint8), np.zeros(4, np.int64)
PLAN = TrainingPlan(1, 4, 0.1, momentum=0.0, weight_decay=0.0, augment=False, precision="float32")


def trained(method: Method, model: nn.Module, loss: Loss, own: Arrays | None = None, plan: TrainingPlan = PLAN) -> Turn:
    """Let a client with the model as the global one do its turn."""
    received = {name: array.clone() for name, array in model.state_dict().items()}
    trainer = Trainer(model)
    turn = Turn(0, 1, model, trainer.names, received, {}, plan, own=own or {})

    def fit(plan: TrainingPlan, pull: Pull | LinearPull | None = None, part: str = "") -> FitResult:
        return trainer.fit(IMAGES, LABELS, loss, plan, 1, pull=pull)

    method.train(turn, fit)
    return turn


def test_fedrep_trains_the_head_and_then_the_body() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    body, head = model.parameters()
    with torch.no_grad():
        body.fill_(2.0)
        head.fill_(1.0)
    method = make_federated_method(tiny_config(method__name="fedrep", method__head_epochs=2))
    # (h b - 1)² / 2 has the gradients (h b - 1) b and (h b - 1) h. Head: 1 - 0.1 × 1 × 2 = 0.8, and then
    # 0.8 - 0.1 × 0.6 × 2 = 0.68. Body: 2 - 0.1 × (0.68 × 2 - 1) × 0.68. What is frozen has no weight decay either.
    trained(method, model, lambda images, labels: ((head * body - 1) ** 2 / 2).sum())
    assert head.item() == pytest.approx(0.68)
    assert body.item() == pytest.approx(1.97552)
    still = TrainingPlan(**{**vars(PLAN), "weight_decay": 0.5, "momentum": 0.9, "frozen": frozenset({"0.weight"})})
    Trainer(model).fit(IMAGES, LABELS, lambda images, labels: (head + body).sum(), still, 1)
    assert body.item() == pytest.approx(1.97552)
    assert head.item() == pytest.approx(0.68 - 0.1 * (1 + 0.5 * 0.68))


def test_ditto_pulls_a_model_of_its_own_towards_the_global_one() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    method = make_federated_method(tiny_config(method__name="ditto", method__ditto_lambda=0.5))
    turn = trained(method, model, lambda images, labels: (model.weight**2 / 2).sum(), {"weight": torch.tensor([[3.0]])})
    # v: 3 - 0.1 × (3 + 0.5 × (3 - 1)); w: 1 - 0.1 × 1
    assert float(turn.own["weight"]) == pytest.approx(2.6)
    assert model.weight.item() == pytest.approx(0.9)
    fresh = trained(method, model, lambda images, labels: (model.weight**2 / 2).sum())
    assert float(fresh.own["weight"]) == pytest.approx(0.81)  # from the global model, where nothing pulls


def test_fedrbn_passes_on_the_statistics_of_clients_that_train_adversarially() -> None:
    changes = {"method__name": "fedrbn", "federation__adversarial_clients": 0.5, "train__label_smoothing": 0.0}
    method = make_federated_method(tiny_config(**changes))
    able = sorted(method.context.adversarial)
    assert len(able) == 5
    replies = [Reply(client, 100, 1.0) for client in (able[0], next(c for c in range(10) if c not in able), able[1])]
    assert list(method.shares(replies, 1)) == [100, 100, 100]
    beside = [{"1.running_mean": torch.tensor([value])} for value in (1.0, 50.0, 4.0)]
    mean = {"0.weight": torch.tensor(7.0), "1.running_mean": torch.tensor([0.0])}
    model = method.combine({}, mean, beside, {})
    assert (float(model["0.weight"]), float(model["1.running_mean"])) == (7.0, 2.5)  # of the first and the third
    method.shares(replies[1:2], 2)
    assert method.combine({}, mean, beside[1:2], {}) == mean  # nobody of this round can give


def test_fedrbn_trains_on_both_kinds_of_images_and_only_attacked_ones_move_the_statistics() -> None:
    changes = {"method__name": "fedrbn", "federation__adversarial_clients": 0.5, "train__label_smoothing": 0.0}
    method = make_federated_method(tiny_config(**changes))
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    images, labels = torch.rand(8, 3, 2, 2), torch.tensor([0, 1] * 4)
    seen: list[float] = []

    def local(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(float(model[0].get_buffer("running_mean").abs().sum()))
        return 3 * model(images + 10).square().mean()

    able, other = (
        next(client for client in range(10) if (client in method.context.adversarial) is wanted)
        for wanted in (True, False)
    )
    turns = [Turn(client, 1, model, ["2.weight"], dict(model.state_dict()), {}, PLAN) for client in (able, other)]
    assert method.loss(turns[1], local) is local
    value = method.loss(turns[0], local)(images, labels).detach()
    assert seen == [0.0]  # the natural images, which came first, have not moved them
    moved = model[0].get_buffer("running_mean")
    assert torch.allclose(moved, 0.1 * (images + 10).mean((0, 2, 3)))
    natural = nn.functional.cross_entropy(model(images), labels)
    assert value.item() == pytest.approx(((natural + 3 * model(images + 10).square().mean()) / 2).item(), rel=1e-5)
    for turn in turns:
        turn.own = turn.trained([name for name in model.state_dict() if name.startswith("0.")])
        assert method.after(turn).keys() == {"0.running_mean", "0.running_var"}
    assert turns[0].own.keys() - turns[1].own.keys() == {"0.running_mean", "0.running_var"}


def test_what_an_image_costs() -> None:
    half = {"federation__adversarial_clients": 0.5}
    costs = [
        make_federated_method(tiny_config(method__name=name, **half)).passes(11, 1) for name in ("ditto", "fedrbn")
    ]
    assert costs == [22, 14]  # fedrbn: of a client that attacks, 3 + 11
