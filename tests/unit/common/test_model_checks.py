"""Each sign that a model does not answer as attacks expect, on a model that shows it; and attacks on a random one."""

import re

import numpy as np
import pytest
import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from common.attacks.library import build_attack
from common.attacks.threat import Threat
from common.data.datasets import Dataset
from common.evaluation.curve_checks import find_curve_warnings
from common.evaluation.evaluate import evaluate
from common.evaluation.model_checks import check_model, is_randomized
from common.evaluation.results import Evaluation
from common.evaluation.sanity_checks import find_warnings
from common.models.networks import build_model
from tests.helpers.settings import Threshold
from tests.helpers.trained import THREAT, trained_network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Dataset]:
    return trained_network(200)


class Around(nn.Module):
    """The trained network with something before or behind it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(self.before(pixels))
        return self.behind(logits)

    def before(self, pixels: Tensor) -> Tensor:
        return pixels

    def behind(self, logits: Tensor) -> Tensor:
        return logits


class Noise(Around):
    def before(self, pixels: Tensor) -> Tensor:
        return pixels + 0.1 * torch.randn_like(pixels)


class Dropout(Around):
    def before(self, pixels: Tensor) -> Tensor:
        return F.dropout(pixels, 0.3, training=True)


class Shift(Around):
    """One shift for the whole batch, drawn from NumPy's generator: none in one of seven passes."""

    def before(self, pixels: Tensor) -> Tensor:
        return torch.roll(pixels, int(np.random.randint(-3, 4)), 3)  # noqa: NPY002


class Probabilities(Around):
    def behind(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


class Sigmoid(Around):
    def behind(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class Tiny(Around):
    def behind(self, logits: Tensor) -> Tensor:
        return 1e-4 * logits


class Huge(Around):
    def behind(self, logits: Tensor) -> Tensor:
        return 1e4 * logits


class WholeBatch(Around):
    def before(self, pixels: Tensor) -> Tensor:
        return pixels - pixels.mean((0, 2, 3), keepdim=True) + 0.5


class Neighbour(Around):
    """Each image is mixed with the one before it in the batch."""

    def before(self, pixels: Tensor) -> Tensor:
        return 0.8 * pixels + 0.2 * pixels.roll(1, 0)


class Purified(Around):
    """A defence that changes the image by gradients before it looks at it."""

    def before(self, pixels: Tensor) -> Tensor:
        with torch.enable_grad():
            image = pixels.detach().requires_grad_()
            gradient = torch.autograd.grad(self.model(image).logsumexp(1).sum(), image)[0]
        return (pixels + gradient.sign() / 255).clamp(0, 1)


class Steps(Around):
    """Quantised to eight levels: between them the gradient is zero."""

    def before(self, pixels: Tensor) -> Tensor:
        return torch.round(7 * pixels) / 7


def told(model: nn.Module, test: Dataset, *attacks: str, eot: int = 1) -> tuple[str, ...]:
    found = evaluate(model, test.images, test.labels, attacks, THREAT, 1, eot=eot)
    return find_warnings(model, test.images, test.labels, found, THREAT, 1, eot)


@pytest.mark.parametrize("attacks", [("fgsm", "pgd-20"), ("pgd-20", "apgd-t-20"), ("fgsm",), ("apgd-ce-20",), ()])
def test_a_trained_model_raises_no_warning(trained: tuple[nn.Module, Dataset], attacks: tuple[str, ...]) -> None:
    assert told(*trained, *attacks) == ()


@pytest.mark.parametrize("make", [Noise, Dropout, Shift])
def test_a_randomized_model_is_told(trained: tuple[nn.Module, Dataset], make: type[Around]) -> None:
    model, test = make(trained[0]), trained[1]
    assert is_randomized(model, test.images, 1)
    few = test.take(np.arange(0, 200, 10))
    averaged = told(model, few, "pgd-2", eot=3)
    assert averaged[0].startswith("the model is randomized: ")
    assert "attacks see the mean of its logits over 3 forward passes, and each prediction" in averaged[0]
    (alone,) = told(model, test)
    assert "of 64 images get other logits when they are shown again" in alone
    assert "attacks see one forward pass at a time (evaluate.eot = 1), so robust accuracy is overstated" in alone


def test_a_model_without_chance_is_not_randomized(trained: tuple[nn.Module, Dataset]) -> None:
    for model in (trained[0], Threshold(), WholeBatch(trained[0]), Tiny(trained[0])):
        assert not is_randomized(model, trained[1].images, 1)


def test_looking_leaves_the_model_as_it_was(trained: tuple[nn.Module, Dataset]) -> None:
    class Restless(Around):
        """Its batch normalization keeps counting, also in eval mode."""

        def train(self, mode: bool = True) -> "Restless":
            return super().train(True)  # type: ignore[return-value]

    model = Restless(build_model("cnn", 10, 2, "relu", True, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = Evaluation(np.zeros(4, np.int64), {"natural": np.zeros(4, np.int16)}, 10)
    sentences = check_model(model, trained[1].images, found, 1, 1)
    assert any(sentence.startswith("the answer depends on the other images") for sentence in sentences)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_mean_of_a_known_network_and_its_gradient() -> None:
    class Coin(nn.Module):
        """Logits (p, 0), (2p, 0), (3p, 0) in turn, for a pixel p."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.passes = 0

        def forward(self, pixels: Tensor) -> Tensor:
            self.passes += 1
            own = (1 + (self.passes - 1) % 3) * pixels[:, 0, 0, 0]
            return torch.stack([own, 0 * own], 1)

    from common.attacks.expectation import Averaged

    pixels = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    logits = Averaged(Coin(), 3)(pixels)
    assert logits.tolist() == [[1.0, 0.0]]
    gradient = torch.autograd.grad(logits[0, 0], pixels)[0]
    assert gradient.flatten().tolist() == [2.0] + [0.0] * 11


def test_averaged_attacks_break_as_much_as_another_implementation(trained: tuple[nn.Module, Dataset]) -> None:
    """torchattacks' EOTPGD means the gradients of the loss; both follow the expectation, each with its own draws."""
    model, test = Noise(trained[0]).eval(), trained[1]
    images, labels = torch.from_numpy(test.images).float() / 255, torch.from_numpy(test.labels)

    def left(attacked: Tensor) -> float:
        with torch.no_grad():
            return float(np.mean([float((model(attacked).argmax(1) == labels).sum()) for _ in range(20)]))

    torch.manual_seed(1)
    wide = Threat(8 / 255, 2 / 255, 10)
    theirs = torchattacks.EOTPGD(model, eps=8 / 255, alpha=2 / 255, steps=10, eot_iter=10)(images, labels)
    ours = build_attack("pgd", model, wide, eot=10)(images, labels)
    blind = build_attack("pgd", model, wide)(images, labels)
    assert (ours - images).abs().max() <= 8 / 255 + 1e-6
    assert left(ours) == pytest.approx(left(theirs), abs=6)  # of 200; two standard errors of a difference are less
    assert left(ours) < left(blind)


def test_every_attack_sees_the_mean(trained: tuple[nn.Module, Dataset]) -> None:
    test = trained[1].take(np.arange(0, 200, 20))
    for label in ("bim-2", "cw-2", "apgd-ce-3", "apgd-t-3", "fab-t-2", "square-5", "deepfool"):
        evaluate(Noise(trained[0]), test.images, test.labels, (label,), THREAT, 1, eot=2)


def test_a_mean_over_one_pass_changes_nothing(trained: tuple[nn.Module, Dataset]) -> None:
    model, test = trained
    plain = evaluate(model, test.images, test.labels, ("pgd-5",), THREAT, 1)
    again = evaluate(model, test.images, test.labels, ("pgd-5",), THREAT, 1, eot=1)
    assert np.array_equal(plain.predictions["pgd-5"], again.predictions["pgd-5"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Probabilities, "the model returns probabilities (they add up to 1) where attacks expect logits"),
        (Sigmoid, "the model returns numbers between 0 and 1 where attacks expect logits"),
        (WholeBatch, "the answer depends on the other images of the batch: 64 of 64 images get other logits"),
        (Neighbour, "the answer depends on the other images of the batch: "),
        (Purified, "the model computes gradients in its own forward pass"),
        (Steps, "the gradient of the loss is exactly zero for "),
        (Tiny, "the logits have an unusual scale"),
        (Huge, "the gradient of the loss is exactly zero for "),
    ],
)
def test_what_weakens_attacks_is_told(trained: tuple[nn.Module, Dataset], make: type[Around], words: str) -> None:
    sentences = told(make(trained[0]), trained[1], "fgsm", "pgd-20")
    assert any(sentence.startswith(words) for sentence in sentences), sentences


def test_attacks_that_are_too_weak_are_told(trained: tuple[nn.Module, Dataset]) -> None:
    steps, weak = told(*trained, "pgd-1")
    assert steps.endswith("1 steps are too few")
    assert re.match(r"cw-20, .*, broke \d+ of \d+ images that survived pgd-1: robust accuracy is overstated", weak)


def one_class(predicted: list[int], labels: list[int]) -> list[str]:
    found = Evaluation(np.array(labels), {"natural": np.array(predicted, np.int16)}, 10)
    images = np.zeros((len(labels), 3, 4, 4), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels)) * 10
    return check_model(Threshold(), images, found, 1, 1)


def test_a_collapsed_model_is_told() -> None:
    ten = list(range(10))
    (only,) = one_class([3] * 10, ten)
    assert only.startswith("the model predicts the same class (number 3, counted from 0) for 10 of 10 images: ")
    assert one_class([3] * 9 + [4], ten) == []
    assert len(one_class([3] * 199 + [4], ten * 20)) == 1  # 99.5 %
    # By chance alone: two images, or images that are nearly all of that class.
    assert one_class([3, 3], [3, 4]) == []
    assert one_class([3] * 20, [3] * 20) == []
    assert one_class([3] * 20, [3] * 19 + [4]) == []


def test_a_curve_that_rises_or_never_ends() -> None:
    labels, count = np.arange(40) % 10, np.arange(40)
    falling = {0.0: count < 40, 8.0: count < 20, 64.0: count < 4}
    assert find_curve_warnings(falling, labels) == ()
    (rises,) = find_curve_warnings({**falling, 16.0: count < 28}, labels)
    assert rises.startswith(
        "the curve rises from epsilon 8/255 (Linf) to 16/255 (Linf): 8 images are robust at the larger epsilon"
    )
    assert find_curve_warnings({**falling, 16.0: count < 26}, labels) == ()  # 6 of 6: 1 in 64 by chance
    (ends,) = find_curve_warnings({**falling, 64.0: count < 16}, labels)
    assert ends.startswith("the curve ends at 40.0 % at epsilon 64/255 (Linf), above chance (10.0 %)")
    assert find_curve_warnings({0.0: count < 40, 32.0: count < 30}, labels) == ()
