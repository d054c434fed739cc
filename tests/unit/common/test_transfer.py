"""Examples made on one linear model and tried on another: what they must break is worked out by hand.

The attacked model says class 1 where 2 p + q > 384, for the first two values p and q of the red channel, in 1/255. The
other one looks at p - q. Each attack goes to the corner of the ball: with epsilon 8, one that sees the attacked model
moves 2 p + q by 8 × 3 = 24, and one that sees the other by 8 × (2 - 1) = 8, since it moves q the wrong way.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.attacks.threat import Threat
from common.errors import FedShieldError
from common.evaluation.evaluate import evaluate
from common.evaluation.results import Evaluation
from common.evaluation.store import ArrayStore
from common.evaluation.transfer import can_see, can_transfer, find_transfer_warnings, with_transferred

THREAT = Threat.from_255(epsilon=8, step=2)

pytestmark = pytest.mark.usefixtures("one_thread")


class Linear(nn.Module):
    """Class 1 where a p + b q > c, with p, q and c in 1/255."""

    def __init__(self, a: float, b: float, c: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([a, b]))
        self.c = c / 255
        self.passes = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.passes += 1
        margin = self.look(pixels[:, 0, 0, :2]) @ self.weights - self.c
        return torch.stack([-margin, margin], 1)

    def look(self, values: Tensor) -> Tensor:
        return values


class Steps(Linear):
    """The same at every image of 8 bits; but between these the gradient is zero."""

    def look(self, values: Tensor) -> Tensor:
        return (255 * values).round() / 255


class Detached(Linear):
    """The same without any gradient."""

    def look(self, values: Tensor) -> Tensor:
        return values.detach()

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(pixels)


def attacked(kind: Callable[[float, float, float], Linear] = Linear) -> Linear:
    return kind(2.0, 1.0, 384.0)


def other() -> Linear:
    return Linear(1.0, -1.0, 40.0)  # wherever its own border is: only its gradient counts


def images(*distances: int) -> np.ndarray:
    """Return images at which 2 p + q - 384 is this."""
    found = np.full((len(distances), 3, 4, 4), 100, np.uint8)
    found[:, 0, 0, 0] = 128
    found[:, 0, 0, 1] = 128 + np.array(distances)
    return found


DISTANCES = (-30, -20, -9, -5, 5, 7, 9, 23, 25, 5)
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])  # the last one is wrong already


def measured(
    model: nn.Module, attacks: Sequence[str], made_on: nn.Module | None = None, kept: ArrayStore | None = None
) -> Evaluation:
    return evaluate(
        model, images(*DISTANCES), LABELS, attacks, THREAT, seed=1, batch_size=4, kept=kept, made_on=made_on
    )


def survivors(found: Evaluation, label: str) -> list[int]:
    return [DISTANCES[row] for row in np.flatnonzero(found.masks()[label])]


@pytest.mark.parametrize("attack", ["fgsm", "bim-20", "pgd-20", "pgd-20x2", "cw-20"])
def test_examples_of_another_model_break_what_its_gradient_reaches(attack: str) -> None:
    seeing, blind = measured(attacked(), [attack]), measured(attacked(), [attack], other())
    assert survivors(seeing, attack) == [-30, 25]
    assert survivors(blind, attack) == [-30, -20, -9, 9, 23, 25]
    assert blind.natural == seeing.natural
    assert blind.natural.correct == 9


def test_a_model_with_the_opposite_gradient_breaks_nothing_and_that_with_the_same_everything() -> None:
    opposite, same = Linear(-2.0, -1.0, -384.0), Linear(4.0, 2.0, 100.0)
    assert measured(attacked(), ["fgsm"], opposite).robust["fgsm"].correct == 9
    assert survivors(measured(attacked(), ["fgsm"], same), "fgsm") == [-30, 25]


def test_an_image_that_a_transferred_example_breaks_is_broken() -> None:
    own = measured(attacked(), ["square"])
    made = {"B": measured(attacked(), ["fgsm", "pgd-20"], other()), "C": measured(attacked(), ["fgsm"], attacked())}
    found = with_transferred(own, made)
    assert list(found.predictions) == ["natural", "fgsm from B", "pgd-20 from B", "fgsm from C", "square"]
    assert survivors(found, "fgsm from B") == [-30, -20, -9, 9, 23, 25]
    assert survivors(found, "fgsm from C") == [-30, 25]
    assert found.worst is not None
    assert found.worst.correct == 2
    assert found.as_json()["robust"]["fgsm from B"]["value"] == 6 / 10


def test_at_epsilon_zero_nothing_is_broken() -> None:
    found = evaluate(attacked(), images(*DISTANCES), LABELS, ["pgd-20"], Threat(0, 1 / 255, 0), 1, made_on=other())
    assert found.robust["pgd-20"] == found.natural


def test_the_other_model_is_left_in_its_mode() -> None:
    made_on = other().train()
    measured(attacked(), ["pgd-2"], made_on)
    assert made_on.training
    assert made_on.weights.grad is None


def masked(count: int) -> tuple[Evaluation, dict[str, Evaluation]]:
    """Attack a model with steps: so many images are in reach of FGSM on the same model without steps, 5 are not."""
    data, labels = images(*[10] * count, *[40] * 5), np.ones(count + 5, np.int64)
    asked = data, labels, ["fgsm"], THREAT
    own = evaluate(attacked(Steps), *asked, seed=1)
    return own, {"B": evaluate(attacked(Steps), *asked, seed=1, made_on=attacked())}


def test_examples_of_another_model_that_are_stronger_are_told() -> None:
    own, made = masked(7)
    assert own.robust["fgsm"].correct == 12  # the gradient is zero: FGSM changes nothing
    assert made["B"].robust["fgsm"].correct == 5
    (told,) = find_transfer_warnings(own, made)  # 1 / 2^7 is below 1 %
    assert told.startswith("fgsm from B broke 7 images that fgsm did not, and fgsm 0 that it did not: ")
    assert "the gradient may be masked" in told
    assert not find_transfer_warnings(*masked(6))  # 1 / 2^6 is not
    assert not find_transfer_warnings(measured(attacked(), ["fgsm"]), {"B": measured(attacked(), ["fgsm"], other())})


def test_a_model_without_a_gradient_is_attacked_from_others_alone() -> None:
    assert can_see(attacked(), images(1), ["pgd-20", "square"]) == ["pgd-20", "square"]
    assert can_see(attacked(Detached), images(1), ["pgd-20", "square"]) == ["square"]
    made = {"B": measured(attacked(Detached), ["fgsm"], other())}
    assert survivors(made["B"], "fgsm") == [-30, -20, -9, 9, 23, 25]
    (told,) = find_transfer_warnings(measured(attacked(Detached), []), made)
    assert told.startswith("fgsm could not run on the model itself, whose output has no gradient")
    with pytest.raises(FedShieldError, match="has no gradient"):
        measured(attacked(), ["fgsm"], attacked(Detached))


def test_an_attack_without_a_budget_does_not_move() -> None:
    assert can_transfer(["fgsm", "deepfool", "autoattack", "cw-l2", "square"]) == ["fgsm", "autoattack", "square"]


class Interrupted(Linear):
    """Is stopped in its 30th pass: the first looks whether there is a gradient, and each batch takes 20."""

    def look(self, values: Tensor) -> Tensor:
        if self.passes == 30:
            raise KeyboardInterrupt
        return values


def test_an_interrupted_attack_goes_on_with_the_batch_it_was_at(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(attacked(), ["pgd-20"], Interrupted(1.0, -1.0, 40.0), ArrayStore(tmp_path))
    model, made_on = attacked(), other()
    found = measured(model, ["pgd-20"], made_on, ArrayStore(tmp_path))
    assert np.array_equal(found.predictions["pgd-20"], measured(attacked(), ["pgd-20"], other()).predictions["pgd-20"])
    assert (model.passes, made_on.passes) == (2, 1 + 2 * 20)  # of three batches


def test_what_is_kept_is_not_attacked_again(tmp_path: Path) -> None:
    first = measured(attacked(), ["pgd-20"], other(), ArrayStore(tmp_path))
    model, made_on = attacked(), other()
    again = measured(model, ["pgd-20"], made_on, ArrayStore(tmp_path))
    assert np.array_equal(again.predictions["pgd-20"], first.predictions["pgd-20"])
    assert (model.passes, made_on.passes) == (0, 1)  # which looks whether there is a gradient
