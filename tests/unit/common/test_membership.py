"""Membership inference against figures by hand, and on models of which it is known what they were trained on."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from common.attacks.library import build_attack
from common.attacks.threat import Threat
from common.errors import FedShieldError
from common.evaluation.lira import check_shadows, lira_scores, shadow_halves
from common.evaluation.membership import (
    area_under_curve,
    confidences,
    figures_of,
    matched_rows,
    true_positive_rate,
)
from common.statistics import auc_interval
from common.training.losses import LOSSES, LossContext
from common.training.trainer import Trainer, TrainingPlan

pytestmark = pytest.mark.usefixtures("one_thread")

Z = 1.959964


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def test_area_under_the_curve_by_hand() -> None:
    # 3 is above both others; each 2 is above 1 and ties with 2: (2 + 1.5 + 1.5) / 6.
    assert area_under_curve(floats(3, 2, 2), floats(2, 1)) == pytest.approx(5 / 6)
    assert area_under_curve(floats(1, 2), floats(3, 4)) == 0
    assert area_under_curve(floats(7, 7), floats(7)) == 0.5


def test_true_positive_rate_by_hand() -> None:
    others = np.arange(100.0)
    # One of 100 may be above the threshold, which is 98.
    assert true_positive_rate(floats(98.5, 99.5, 98, 50), others, 0.01) == 0.5
    assert true_positive_rate(floats(98.5), others[:99], 0.01) is None
    # 29 of 100, although 0.29 × 100 is a little less in floats: the threshold is 70.
    assert true_positive_rate(floats(70.5, 70), others, 0.29) == 0.5
    # None of those that lie on the threshold is taken for a member: there are more than may be.
    assert true_positive_rate(floats(5, 6), np.full(100, 5.0), 0.01) == 0.5


def test_figures_have_no_rate_that_their_number_does_not_carry() -> None:
    scores = np.arange(1000.0)
    assert figures_of(scores, scores)["tpr"] == {"0.01": 0.01, "0.001": 0.001}
    assert figures_of(scores, scores[:999])["tpr"]["0.001"] is None
    assert figures_of(scores, scores[:99])["tpr"] == {"0.01": None, "0.001": None}


@pytest.mark.parametrize(("auc", "m", "n"), [(0.8, 30, 70), (0.5, 500, 500), (0.3, 12, 9), (1.0, 10, 10)])
def test_the_ends_of_an_interval_are_z_of_their_own_standard_errors_away(auc: float, m: int, n: int) -> None:
    low, high = auc_interval(auc, m, n)
    assert 0 <= low < high <= 1
    for end in {low, high} - {1.0}:
        more = (m + n) / 2 - 1
        # Hanley and McNeil 1982: Q1 = A / (2 - A), Q2 = 2 A² / (1 + A).
        first, second = end / (2 - end) - end**2, 2 * end**2 / (1 + end) - end**2
        error = math.sqrt((end * (1 - end) + more * first + more * second) / (m * n))
        assert abs(end - auc) == pytest.approx(Z * error, rel=1e-5)
    assert auc_interval(1 - auc, m, n) == pytest.approx((1 - high, 1 - low))


def test_an_interval_holds_the_true_area_nineteen_times_of_twenty() -> None:
    rng, true = np.random.default_rng(1), 0.7602  # P(N(1, 1) > N(0, 1))
    held = 0
    for _ in range(1000):
        auc = area_under_curve(rng.normal(1, 1, 40), rng.normal(0, 1, 60))
        low, high = auc_interval(auc, 40, 60)
        held += low <= true <= high
    assert 930 <= held <= 975


def test_both_sides_have_as_many_of_each_class() -> None:
    members, others = np.repeat([0, 1, 2], [50, 5, 20]), np.repeat([0, 1, 3], [30, 40, 10])
    for examples, expected in ((0, [30, 5, 0, 0]), (12, [7, 5, 0, 0]), (4, [2, 2, 0, 0])):
        chosen, new = matched_rows(members, others, 4, examples, seed=1)
        for labels, rows in ((members, chosen), (others, new)):
            assert np.bincount(labels[rows], minlength=4).tolist() == expected
            assert (np.diff(rows) > 0).all()
    again = matched_rows(members, others, 4, 12, seed=1)
    assert all(np.array_equal(*pair) for pair in zip(again, matched_rows(members, others, 4, 12, seed=1), strict=True))
    assert not np.array_equal(again[1], matched_rows(members, others, 4, 12, seed=2)[1])
    assert set(matched_rows(members, others, 4, 4, seed=1)[1]) <= set(again[1])


def test_images_without_a_common_class_are_not_compared() -> None:
    chosen, new = matched_rows(np.array([0, 0]), np.array([1]), 2, 500, seed=1)
    assert len(chosen) == len(new) == 0


class Fixed(nn.Module):
    """Logits that do not depend on the image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(pixels), -1)


def test_confidence_is_the_log_odds_of_the_true_class() -> None:
    images = np.zeros((3, 3, 4, 4), np.uint8)
    # Softmax of 0, log 2, log 5 is 1/8, 2/8, 5/8, whose odds are 1/7, 1/3 and 5/3.
    found, right = confidences(Fixed(0.0, math.log(2), math.log(5)), images, np.arange(3), batch_size=2)
    assert found == pytest.approx(np.log([1 / 7, 1 / 3, 5 / 3]), abs=1e-6)
    assert right.tolist() == [False, False, True]
    # The cross-entropy is log(1 + e^-φ).
    assert np.log1p(np.exp(-found)) == pytest.approx(-np.log([1 / 8, 2 / 8, 5 / 8]), abs=1e-6)
    # Where the loss is rounded to 0, confidences still differ.
    surest, _ = confidences(Fixed(900.0, 0.0), images[:1], np.array([0]), 1)
    assert F.cross_entropy(torch.tensor([[900.0, 0.0]]), torch.tensor([0])) == 0
    assert surest.tolist() == [900.0]


def test_a_model_without_confidence_is_refused() -> None:
    with pytest.raises(FedShieldError, match="logits are not finite"):
        confidences(Fixed(float("nan"), 0.0), np.zeros((1, 3, 4, 4), np.uint8), np.array([0]), 1)


def test_lira_by_hand() -> None:
    target = floats(4, 1, 2)
    shadows = np.array([[1.0, 9, 2], [9, 1, 9], [3, 9, 9], [9, 3, 4]])
    seen = shadows == 9
    # New are 1 and 3 (mean 2), 1 and 3 (mean 2), 2 and 4 (mean 3); all six have mean 14/6 and variance 40/6 - (14/6)².
    spread = math.sqrt(40 / 6 - (14 / 6) ** 2)
    assert lira_scores(target, shadows, seen) == pytest.approx([2 / spread, -1 / spread, -1 / spread])


def test_lira_of_shadows_that_all_say_the_same_keeps_the_order() -> None:
    assert lira_scores(floats(3, 1), np.ones((2, 2)), np.eye(2, dtype=bool)).tolist() == [2, 0]


def test_lira_sees_through_what_makes_an_image_easy() -> None:
    rng = np.random.default_rng(1)
    hardness, member = rng.normal(0, 5, 400), np.arange(400) < 200
    target = hardness + member
    seen = shadow_halves(400, 4, seed=1)
    shadows = hardness + rng.normal(0, 0.3, (4, 400)) + 50 * seen  # of what they have seen, nothing is to be used
    scores = lira_scores(target, shadows, seen)
    assert area_under_curve(scores[member], scores[~member]) > 0.95
    assert area_under_curve(target[member], target[~member]) < 0.65


def test_each_image_is_new_to_half_of_the_shadow_models() -> None:
    seen = shadow_halves(11, 6, seed=1)
    assert seen.sum(0).tolist() == [3] * 11
    assert set(seen.sum(1).tolist()) == {5, 6}
    assert np.array_equal(seen[0], ~seen[1])
    assert not np.array_equal(seen[0], seen[2])
    assert np.array_equal(seen, shadow_halves(11, 6, seed=1))


def test_an_odd_number_of_shadow_models_is_refused() -> None:
    check_shadows(0)
    with pytest.raises(FedShieldError, match=r"--shadows 3: .* give 2 or 4"):
        check_shadows(3)


def test_an_overfitted_model_is_recognised_by_what_it_has_seen_alone() -> None:
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (240, 3, 6, 6), np.uint8), np.arange(240) % 4
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 64), nn.ReLU(), nn.Linear(64, 4))
    threat = Threat.from_255(epsilon=2, step=1, steps=3)
    loss = LOSSES["pgd-at"](model, LossContext("none", threat, 0.0, 0.0))
    Trainer(model).fit(images[:80], labels[:80], loss, TrainingPlan(60, 16, 0.05, 0.9, 0.0, False, "float32"), 1)
    natural, right = confidences(model, images, labels, 100)
    attacked, _ = confidences(model, images, labels, 100, build_attack("pgd", model, threat, 4), seed=1)
    assert right[:80].all()
    for scores in (natural, attacked):
        assert area_under_curve(scores[:80], scores[80:160]) > 0.9
        unseen = figures_of(scores[80:160], scores[160:])
        assert unseen["interval"][0] < 0.5 < unseen["interval"][1]
    again, _ = confidences(model, images, labels, 100, build_attack("pgd", model, threat, 4), seed=1)
    assert np.array_equal(attacked, again)
    assert (attacked < natural).mean() > 0.95
