"""Robust accuracy: per-example worst case, on a model whose robustness is known."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.attacks import Threat
from common.evaluation import Rate, evaluate
from common.models import build_model


class Threshold(nn.Module):
    """Class 1 when the first pixel is above 128/255, whose distance to it is the robust radius."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, pixels: Tensor) -> Tensor:
        margin = self.scale * (pixels[:, 0, 0, 0] - 128 / 255)
        return torch.stack([-margin, margin], 1)


def images(*levels: int) -> np.ndarray:
    found = np.full((len(levels), 3, 4, 4), 100, dtype=np.uint8)
    found[:, 0, 0, 0] = levels
    return found


LEVELS = (100, 119, 121, 125, 129, 135, 137, 200)
LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 1])  # the fourth is classified wrongly already


def test_known_radii_give_known_accuracies() -> None:
    found = evaluate(Threshold(), images(*LEVELS), LABELS, ("fgsm", "pgd-20"), Threat(8 / 255, 2 / 255, 7), seed=1)
    # Natural: all but 125. Within 8 of 128 lie 121, 129 and 135; 119 and 137 are 9 away.
    assert (found.natural.correct, found.n) == (7, 8)
    assert found.robust["fgsm"].correct == 4
    assert found.robust["pgd-20"].correct == 4
    assert found.worst.correct == 4


def test_worst_case_counts_an_example_that_any_attack_breaks() -> None:
    # One step of 2/255 (PGD-1) from a random start and the whole budget at once (FGSM) break different sets; whatever
    # they are, the worst case is their intersection, example by example, so it is at most the smaller one.
    found = evaluate(Threshold(), images(*LEVELS), LABELS, ("fgsm", "pgd-1", "bim-1"), Threat(8 / 255, 2 / 255, 7), 1)
    assert found.robust["bim-1"].correct == 6  # only 129 is within one step of 2
    assert found.worst.correct == min(rate.correct for rate in found.robust.values()) == 4


def test_zero_epsilon_gives_natural_accuracy_exactly() -> None:
    model = build_model("cnn", 10, 4, "relu", True, 1)
    data = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    with torch.no_grad():
        labels = model.eval()(torch.from_numpy(data).float() / 255).argmax(1).numpy()
    labels[::3] = (labels[::3] + 1) % 10
    found = evaluate(model, data, labels, ("fgsm", "pgd-10"), Threat(0.0, 2 / 255, 7), 1, batch_size=10)
    assert found.natural.correct == 64 - 22
    assert {rate.correct for rate in found.robust.values()} == {found.worst.correct} == {found.natural.correct}


def test_evaluates_in_eval_mode_and_gives_the_mode_back() -> None:
    model = build_model("cnn", 10, 4, "relu", True, 1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    first = evaluate(model, data, np.arange(20) % 10, ("pgd-2",), Threat(8 / 255, 2 / 255, 7), 1)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    torch.rand(5)
    assert evaluate(model, data, np.arange(20) % 10, ("pgd-2",), Threat(8 / 255, 2 / 255, 7), 1) == first


def test_no_correct_example_and_no_attack() -> None:
    none = evaluate(Threshold(), images(100, 100), np.array([1, 1]), ("pgd-2",), Threat(8 / 255, 2 / 255, 7), 1)
    assert (none.natural.correct, none.robust["pgd-2"].correct, none.worst.correct) == (0, 0, 0)
    natural = evaluate(Threshold(), images(100, 200), np.array([0, 0]), (), Threat(8 / 255, 2 / 255, 7), 1)
    assert (natural.natural.correct, natural.worst.correct, natural.robust) == (1, 1, {})


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # Wilson's formula by hand, z = 1.96: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n).
    # p = 0.8, n = 10: (0.8 + 0.19207 ± 1.95996·0.15935) / 1.38415 = 0.71674 ± 0.22657 → [0.49016, 0.94331].
    [(8, 10, 0.49016, 0.94331), (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (500, 1000, 0.46907, 0.53093)],
)
def test_wilson_interval_by_hand(correct: int, n: int, low: float, high: float) -> None:
    assert Rate(correct, n).interval == pytest.approx((low, high), abs=2e-5)


def test_log_line_shows_every_attack_its_interval_and_n() -> None:
    found = evaluate(Threshold(), images(*LEVELS), LABELS, ("fgsm", "pgd-20"), Threat(8 / 255, 2 / 255, 7), 1)
    assert found.line() == (
        "natural 87.5 % [52.9, 97.8]  fgsm 50.0 % [21.5, 78.5]  pgd-20 50.0 % [21.5, 78.5]  "
        "worst case 50.0 % [21.5, 78.5]  n = 8"
    )
