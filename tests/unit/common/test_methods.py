"""Federated methods: their equations worked out by hand, and what each must reach on problems with a known answer."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import FedShieldError
from common.factory import make_federated_method
from common.methods.library import METHODS
from common.methods.method import Arrays, Method, Reply, Turn
from common.training.losses import Loss
from common.training.pull import LinearPull, PlacedPull
from common.training.trainer import Trainer, TrainingPlan
from tests.helpers.settings import tiny_config

RATE, STEPS = 0.1, 5
PLAN = TrainingPlan(1, 10, RATE, momentum=0.0, weight_decay=0.0, augment=False, precision="float32")


class Scalar(nn.Module):
    """One weight, w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))


def method_of(name: str, **changes: object) -> Method:
    return make_federated_method(tiny_config(method__name=name, **changes))


def turn_of(received: float, sent: Arrays | None = None, kept: Arrays | None = None) -> Turn:
    model = Scalar()
    model.w.data.fill_(received)
    return Turn(0, 1, model, ["w"], {"w": torch.tensor(received)}, sent or {}, PLAN, kept or {})


def pulled(method: Method, turn: Turn, weight: float, gradient: float) -> float:
    pull = method.pull(turn)
    assert isinstance(pull, LinearPull)
    weights = [torch.tensor(weight)]
    (found,) = PlacedPull(["w"], weights, pull).take(pull)(["w"], weights, [torch.tensor(gradient)])
    return float(found)


def federate(method: Method, clients: Sequence[tuple[float, float]], rounds: int) -> float:
    """Minimize the mean of h/2 (w − a)² over clients (h, a), by gradient descent at each client; return w."""
    model, server = {"w": torch.tensor(0.0)}, dict[str, Tensor]()
    kept: list[Arrays] = [{} for _ in clients]
    for number in range(1, rounds + 1):
        sent, ends, beside = method.sends(server), [], []
        for client, (curvature, best) in enumerate(clients):
            turn = turn_of(float(model["w"]), sent, kept[client])
            turn.received = model
            pull, weight = method.pull(turn), turn.model.w
            if isinstance(pull, LinearPull):
                pull = PlacedPull(["w"], [weight], pull).take(pull)
            for _ in range(STEPS):
                gradients = [curvature * (weight.data - best)]
                weight.data -= RATE * (pull(["w"], [weight.data], gradients) if pull else gradients)[0]
            turn.steps = STEPS
            beside.append(method.after(turn))
            kept[client] = turn.kept
            ends.append(weight.data.clone())
        replies = [Reply(client, 1, 0.0) for client in range(len(clients))]
        shares = torch.tensor([float(share) for share in method.shares(replies, number)])
        mean = {"w": (shares * torch.stack(ends)).sum() / shares.sum()}
        model = method.combine(model, mean, beside, server)
    return float(model["w"])


# The minimum of the sum is at Σ h a / Σ h = (1·0 + 4·5) / 5 = 4. One local step a round reaches it; more drift away.
APART = [(1.0, 0.0), (4.0, 5.0)]


def test_fedavg_drifts_where_clients_differ_and_the_corrections_do_not() -> None:
    # FedAvg's fixed point: each client shrinks its distance by q = (1 − 0.1 h)⁵, so w = Σ a (1 − q) / Σ (1 − q).
    left = [(1 - RATE * curvature) ** STEPS for curvature, _ in APART]
    fixed = sum(best * (1 - q) for (_, best), q in zip(APART, left, strict=True)) / sum(1 - q for q in left)
    assert federate(method_of("fedavg"), APART, 200) == pytest.approx(fixed, abs=1e-4)
    assert abs(fixed - 4) > 0.5
    changes = {"federation__clients": 2, "partition__scheme": "iid"}
    assert federate(method_of("scaffold", **changes), APART, 200) == pytest.approx(4, abs=1e-3)
    assert federate(method_of("feddyn", method__dyn_alpha=1.0, **changes), APART, 400) == pytest.approx(4, abs=1e-3)


def test_fedprox_adds_the_way_from_the_global_model() -> None:
    # g + μ (w − w_t) = 0.5 + 0.2 × (3 − 1)
    assert pulled(method_of("fedprox", method__prox_mu=0.2), turn_of(1.0), 3.0, 0.5) == pytest.approx(0.9)


def test_scaffold_by_hand() -> None:
    method, server = method_of("scaffold"), dict[str, Tensor]()
    turn = turn_of(1.0)
    turn.model.w.data.fill_(0.5)
    turn.steps = 2
    # c_i⁺ = 0 − 0 + (1 − 0.5) / (2 × 0.1) = 2.5; of ten clients one: c = 2.5 / 10
    assert float(method.after(turn)["w"]) == pytest.approx(2.5)
    assert float(turn.kept["w"]) == pytest.approx(2.5)
    mean = {"w": torch.tensor(0.5)}
    assert method.combine({}, mean, [{"w": torch.tensor(2.5)}], server) == mean
    assert float(method.sends(server)["w"]) == pytest.approx(0.25)
    # The next step: g + c − c_i = 1 + 0.25 − 2.5
    again = turn_of(1.0, server, turn.kept)
    assert pulled(method, again, 1.0, 1.0) == pytest.approx(-1.25)
    # c_i⁺ = 2.5 − 0.25 + (1 − 0.8) / 0.2 = 3.25; sent: 0.75. With momentum 0.9 the second step is 1.9 times as long as
    # the first: 2.5 − 0.25 + 0.2 / 0.29.
    again.model.w.data.fill_(0.8)
    again.steps = 2
    assert float(method.after(again)["w"]) == pytest.approx(0.75)
    fast = turn_of(1.0, server, {"w": torch.tensor(2.5)})
    fast.plan = TrainingPlan(1, 10, RATE, momentum=0.9, weight_decay=0.0, augment=False, precision="float32")
    fast.model.w.data.fill_(0.8)
    fast.steps = 2
    method.after(fast)
    assert float(fast.kept["w"]) == pytest.approx(2.25 + 0.2 / 0.29)


def test_feddyn_by_hand() -> None:
    method, server = method_of("feddyn", method__dyn_alpha=0.5), dict[str, Tensor]()
    turn = turn_of(1.0, kept={"w": torch.tensor(0.25)})
    # g + α (θ − θ_t) − g_k = 1 + 0.5 × (3 − 1) − 0.25
    assert pulled(method, turn, 3.0, 1.0) == pytest.approx(1.75)
    turn.model.w.data.fill_(3.0)
    # g_k ← 0.25 − 0.5 × (3 − 1)
    assert float(method.after(turn)["w"]) == pytest.approx(2.0)
    assert float(turn.kept["w"]) == pytest.approx(-0.75)
    # h ← 0 − 0.5 × (2 + 4) / 10 = −0.3; the model is 4 + 0.3 / 0.5
    beside = [{"w": torch.tensor(2.0)}, {"w": torch.tensor(4.0)}]
    model = method.combine({}, {"w": torch.tensor(4.0), "mean": torch.tensor(7.0)}, beside, server)
    assert float(model["w"]) == pytest.approx(4.6)
    assert float(model["mean"]) == 7.0


def test_sfat_prefers_the_clients_with_the_lowest_losses() -> None:
    # (1 + α) / (1 − α) = 1.5 for α = 0.2. In the authors' code, which has the first client of three as the preferred
    # one, 1.4 at α = 1/6: (1.4 × 1 + 2 + 4) / 3.4 = 2.17647.
    replies = [Reply(0, 100, 0.5), Reply(1, 200, 0.9), Reply(2, 300, 0.7)]
    method = method_of("sfat", method__sfat_alpha=0.2, method__sfat_top=2)
    assert list(method.shares(replies, 2)) == pytest.approx([150, 200, 450])
    assert list(method.shares(replies, 1)) == [100, 200, 300]
    equal = [Reply(place, 1, loss) for place, loss in enumerate((0.5, 0.9, 0.7))]
    shares = np.array(method_of("sfat", method__sfat_alpha=1 / 6).shares(equal, 2))
    assert float(shares @ [1, 2, 4] / shares.sum()) == pytest.approx(7.4 / 3.4)


def test_mixfat_attacks_a_share_of_the_batch() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    turn = Turn(0, 1, model, [], {}, {}, PLAN)
    seen: list[int] = []

    def local(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(images))
        return torch.tensor(8.0)

    images, labels = torch.rand(10, 3, 1, 1), torch.zeros(10, dtype=torch.int64)
    mixed = method_of("mixfat", method__mix_share=0.3, train__label_smoothing=0.0).loss(turn, local)
    # (3 × 8 + 7 × the cross-entropy of the last seven) / 10
    natural = nn.functional.cross_entropy(model(images[3:]), labels[3:])
    assert mixed(images, labels).item() == pytest.approx(2.4 + 0.7 * natural.item())
    assert seen == [3]
    assert method_of("mixfat", method__mix_share=1.0).loss(turn, local)(images, labels).item() == 8.0


def test_the_trainer_corrects_each_step_and_counts_them() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = np.zeros((20, 3, 4, 4), np.uint8), np.zeros(20, np.int64)

    def flat(pixels: Tensor, targets: Tensor) -> Tensor:
        return 0 * model(pixels).sum()

    def down(names: Sequence[str], weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        return [given + (1.0 if name == "1.bias" else 0.0) for name, given in zip(names, gradients, strict=True)]

    result = Trainer(model).fit(images, labels, flat, PLAN, 1, pull=down)
    assert result.steps == 2
    after = model.state_dict()
    assert torch.equal(after["1.weight"], before["1.weight"])
    assert torch.allclose(after["1.bias"], before["1.bias"] - 2 * RATE)


OWN = """
from common.methods.method import Method
class Halved(Method):
    def combine(self, before, mean, beside, server):
        return {name: before[name] + (value - before[name]) / 2 for name, value in mean.items()}
def number(context):
    return 3
"""


def test_a_users_method_is_taken_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    method = method_of(f"{tmp_path / 'own.py'}:Halved")
    found = method.combine({"w": torch.tensor(1.0)}, {"w": torch.tensor(3.0)}, [], {})
    assert float(found["w"]) == 2.0
    with pytest.raises(FedShieldError, match=re.escape("gives int; name a subclass of Method")):
        method_of(f"{tmp_path / 'own.py'}:number")


def test_a_loss_of_its_own_is_recorded_only_where_the_same_class_says_so() -> None:
    class Own(METHODS["mixfat"]):  # type: ignore[misc]
        def loss(self, turn: Turn, loss: Loss) -> Loss:
            return lambda images, labels: 2 * loss(images, labels)

    assert all(made.recordable() for made in METHODS.values())
    assert not Own.recordable()
