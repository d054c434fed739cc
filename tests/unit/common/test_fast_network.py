"""``attack.fast`` attacks the network that is trained, however its parts are used; where it cannot, it says so."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from common.attacks.library import build_attack
from common.attacks.threat import Threat
from common.models.fast_network import why_not_folded
from common.models.folding import Folded
from common.models.modes import ways_of
from common.models.networks import build_model
from tests.helpers.runs import run, same, weights

THREAT = Threat(8 / 255, 2 / 255, 5)


class Plain(nn.Module):
    """A convolution with batch normalization, then a linear layer; the others use the parts in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 10)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Loops(Plain):
    def features(self, x: Tensor) -> Tensor:
        for part in self.body:
            x = torch.tanh(part(x))
        return x


class Slices(Plain):
    def features(self, x: Tensor) -> Tensor:
        return self.body[:2](x)


class Indexes(Plain):
    def features(self, x: Tensor) -> Tensor:
        return self.body[2](self.body[1](self.body[0](x)))


class Counts(Plain):
    def features(self, x: Tensor) -> Tensor:
        return self.body(x) * len(self.body)


class ReadsWeights(Plain):
    def features(self, x: Tensor) -> Tensor:
        return self.body(x) + self.body[0].weight.sum()


class ReadsMemory(Plain):
    def features(self, x: Tensor) -> Tensor:
        found = self.body(x)
        return torch.as_strided(found, (len(x), 8, 32, 32), (8 * 32 * 32, 32 * 32, 32, 1))


class Views(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 32 * 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).view(len(x), -1))


class StaysInTraining(Plain):
    def train(self, mode: bool = True) -> "StaysInTraining":
        super().train(mode)
        self.body[1].train()
        return self


class Listened(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.body.register_forward_hook(lambda part, given, found: found * 3)


class Patched(Plain):
    def __init__(self) -> None:
        super().__init__()
        before = self.body.forward
        self.body.forward = lambda x: before(x).tanh()  # type: ignore[method-assign]


class PatchedPart(Plain):
    def __init__(self) -> None:
        super().__init__()
        before = self.body[0].forward
        self.body[0].forward = lambda x: before(x).tanh()


class Locked(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Drops(Plain):
    def features(self, x: Tensor) -> Tensor:
        return F.dropout(self.body(x), 0.5, self.training)


class Remembers(Plain):
    def features(self, x: Tensor) -> Tensor:
        self.last = self.body(x)
        return self.last


class Draws(Plain):
    def features(self, x: Tensor) -> Tensor:
        return self.body(x + 0.1 * torch.randn_like(x))


def shared() -> nn.Module:
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), relu, pool]
    return nn.Sequential(*first, nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), relu, pool, nn.Flatten(), nn.Linear(392, 10))


def tied() -> nn.Module:
    conv, relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
    parts = [conv, nn.BatchNorm2d(3), relu, conv, nn.BatchNorm2d(3), relu]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


FOLDED = (Plain, Drops, Remembers, shared, tied)
OTHER = "computes other logits as a copy with folded batch normalization"
FAILS = "fails as a copy with folded batch normalization"
REFUSED = {
    Loops: OTHER,
    Slices: OTHER,
    Indexes: f"{FAILS} (IndexError: index 2 is out of range)",
    Counts: OTHER,
    Draws: OTHER,  # the same noise in another order: folded, images lie in memory with channels last
    ReadsWeights: OTHER,
    ReadsMemory: OTHER,
    Views: f"{FAILS} (RuntimeError: view size is not compatible",
    StaysInTraining: OTHER,
    Patched: OTHER,
    PatchedPart: OTHER,
    Locked: f"{FAILS} (TypeError: cannot pickle",
}


def trained(make: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    """Return a network in training mode whose weights and statistics have moved."""
    torch.manual_seed(0)
    model = make().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images, labels = torch.rand(32, 3, 32, 32, device=device), torch.randint(10, (32,), device=device)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def attacked(model: nn.Module, fast: bool) -> Tensor:
    """Return what PGD makes, in training mode."""
    generator = torch.Generator().manual_seed(1)
    device = next(model.parameters()).device
    images, labels = torch.rand(16, 3, 32, 32, generator=generator).to(device), torch.arange(16, device=device) % 10
    torch.manual_seed(2)
    return build_attack("pgd", model, THREAT, fast=fast)(images, labels)


@pytest.mark.parametrize("make", [*FOLDED, *REFUSED, Listened])
def test_the_fast_attack_attacks_the_network_that_is_trained(
    make: Callable[[], nn.Module], device: torch.device
) -> None:
    plain, fast = (attacked(trained(make, device), fast) for fast in (False, True))
    assert ((plain - fast).abs() > 1e-6).float().mean() < 1e-3
    if make not in FOLDED:
        assert torch.equal(plain, fast)


@pytest.mark.parametrize("make", REFUSED)
def test_a_network_that_must_not_be_folded_is_told_once(
    make: Callable[[], nn.Module], device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained(type(f"{make.__name__}Again", (make,), {}), device)  # type: ignore[arg-type]
    for _ in range(2):
        attacked(model, fast=True)
    (line,) = caplog.messages
    assert line.startswith(f"attack.fast = true has no effect on {make.__name__}Again: it {REFUSED[make]}")


@pytest.mark.parametrize("make", FOLDED)
def test_what_can_be_folded_is_folded(make: Callable[[], nn.Module], device: torch.device) -> None:
    model = trained(make, device)
    assert Folded.folds(model)
    assert why_not_folded(model, 32, 32) == ""


def test_the_answer_depends_neither_on_weights_nor_on_what_is_drawn_and_leaves_no_trace(device: torch.device) -> None:
    answers = set()
    for scale in (0.0, 1.0, torch.nan):
        model = trained(Loops, device)
        with torch.no_grad():
            model.head.weight.mul_(scale)  # type: ignore[operator, union-attr]
        torch.manual_seed(3)
        state, ways = {name: value.clone() for name, value in model.state_dict().items()}, ways_of(model)
        drawn = torch.get_rng_state()
        answers.add(why_not_folded(model, 32, 32))
        assert torch.equal(torch.get_rng_state(), drawn)
        assert ways_of(model) == ways
        assert all(part.training for part in model.modules())
        assert all(weight.requires_grad for weight in model.parameters())
        assert all(
            torch.equal(value.nan_to_num(), state[name].nan_to_num()) for name, value in model.state_dict().items()
        )
    (answer,) = answers
    assert answer.startswith(OTHER)


@pytest.mark.parametrize("activation", ["relu", "prelu", "silu"])
@pytest.mark.parametrize("name", ["cnn", "resnet18", "cnn2"])
def test_our_networks_are_folded_as_they_are_built(name: str, activation: str, device: torch.device) -> None:
    assert why_not_folded(build_model(name, 10, 4, activation, True, 1).to(device), 32, 32) == ""


def test_a_network_that_is_changed_later_is_tried_again(device: torch.device) -> None:
    model = trained(Plain, device)
    attacked(model, fast=True)
    before = model.body.forward  # type: ignore[union-attr]
    model.body.forward = lambda x: before(x).tanh()  # type: ignore[union-attr]
    assert torch.equal(*(attacked(model, fast) for fast in (False, True)))
    assert why_not_folded(model, 32, 32).startswith(OTHER)


CODE = """
import torch
from torch import nn

class Loops(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        for part in self.body:
            x = torch.tanh(part(x))
        return self.head(x.mean((2, 3)))

def it(classes):
    return Loops(classes)
"""


@pytest.mark.parametrize("loss", ["pgd-at", "calfat"])
def test_a_run_tells_once_that_it_does_not_fold_and_trains_as_without(
    tmp_path: Path, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    reference, left = f"{tmp_path / 'mine.py'}:it", []
    for fast in (True, False):
        with caplog.at_level("INFO", "fedshield"):
            path = run(tmp_path, f"{loss}-{fast}", model__name=reference, loss__name=loss, attack__fast=fast)
        left.append(weights(path))
    assert same(*left)
    (line,) = [line for line in caplog.messages if "attack.fast" in line]
    assert line.startswith(f"attack.fast = true has no effect: model.name = {reference} {OTHER} (")
