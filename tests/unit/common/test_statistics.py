"""Intervals and tests against the tables of their papers, sums by hand, and what an interval must do."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import multinomial

from common.evaluation.results import Rate
from common.statistics import (
    binomial_tail,
    difference,
    joint_interval,
    mean_share,
    outcome_variance,
    paired_interval,
    sampling_error,
    sign_test,
    t_interval,
    wilson_interval,
)

Z2 = 3.841459  # 1.959964²


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # Wilson's formula by hand, z = 1.96: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n).
        # p = 0.8, n = 10: (0.8 + 0.19207 ± 1.95996·0.15935) / 1.38415 = 0.71674 ± 0.22657 → [0.49016, 0.94331].
        (8, 10, 0.49016, 0.94331),
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (500, 1000, 0.46907, 0.53093),
        # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval(hits: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=6e-5)
    assert Rate(hits, n).interval == wilson_interval(hits, n)
    mirrored = wilson_interval(n - hits, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx(wilson_interval(hits, n))


def test_the_ends_of_wilson_are_exact_where_nothing_or_everything_held() -> None:
    for n in (1, 7, 10_000):
        assert wilson_interval(0, n) == (0.0, pytest.approx(Z2 / (n + Z2)))
        assert wilson_interval(n, n)[1] == 1.0


def test_the_error_of_a_sample_is_half_the_interval_at_one_half() -> None:
    assert sampling_error(1001) == pytest.approx(3.0975, abs=1e-4)  # 196 × √(0.25 / 1001)
    low, high = wilson_interval(500_000, 1_000_000)
    assert sampling_error(1_000_000) == pytest.approx(50 * (high - low), rel=1e-5)


def test_student_against_the_printed_table() -> None:
    # 1 degree of freedom: half width 12.7062 × √2 / √2
    assert t_interval([1.0, 3.0]) == pytest.approx((2.0, 2 - 12.7062, 2 + 12.7062))
    # 2: mean 42, deviation 2; 4.3027 × 2 / √3 = 4.9683
    assert t_interval([40.0, 44.0, 42.0]) == pytest.approx((42.0, 42 - 4.9683, 42 + 4.9683), abs=1e-4)
    # 99: deviation √(25 / 99), quantile 1.9842
    many = t_interval([0.0, 1.0] * 50)
    assert many == pytest.approx((0.5, 0.5 - 1.9842 * 0.0502519, 0.5 + 1.9842 * 0.0502519), abs=1e-5)
    assert t_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
    assert t_interval([1.0]) is t_interval([]) is None


@pytest.mark.parametrize(
    ("shares", "mean", "low", "high"),
    [
        ([0.2, 0.4, 0.6], 0.4, 0.0, 0.8968),  # t = 4.3027 with two degrees of freedom, times 0.2 / √3: ± 0.4968
        ([0.5, 0.6, 0.5, 0.6], 0.55, 0.4581, 0.6419),  # t = 3.1824, times 0.057735 / 2: ± 0.09187
        ([1.0] * 10, 1.0, 0.72247, 1.0),  # no spread: Wilson's
        ([0.0], 0.0, 0.0, 0.79346),
    ],
)
def test_the_interval_of_a_mean_share(shares: list[float], mean: float, low: float, high: float) -> None:
    assert mean_share(np.array(shares)) == pytest.approx((mean, low, high), abs=1e-4)


def test_sign_test_by_hand() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(7, 0) == pytest.approx(1 / 128)
    assert sign_test(3, 1) == pytest.approx(5 / 16)  # 4 + 1 of 16
    assert sign_test(1, 3) == pytest.approx(15 / 16)
    assert sign_test(5000, 5000) == pytest.approx(0.504, abs=1e-3)  # 1/2 and half of the middle one


def test_a_binomial_tail_is_the_sum_of_its_terms() -> None:
    chance = Fraction(1, 500)
    terms = [math.comb(1000, hits) * chance**hits * (1 - chance) ** (1000 - hits) for hits in range(7)]
    assert binomial_tail(7, 1000, float(chance)) == pytest.approx(float(1 - sum(terms)), rel=1e-9)
    assert binomial_tail(0, 5, 0.3) == 1
    assert binomial_tail(5, 5, 1.0) == 1  # all images are of one class
    assert binomial_tail(2, 2, 0.1) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "low", "high"),
    [
        (9, 3, 32, -0.027, 0.390),  # Tango 1998, section 6.2: sleeping difficulties
        (12, 2, 50, 0.0611, 0.3447),  # a table of Newcombe 1998, Statistics in Medicine 17:2635, by this method
        # Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850: complete response to a therapy
        (6, 16, 161, -0.1240, -0.0054),
        # By hand: with no discordant pair q = 0, and (n d)² = z² n d (1 - d), so that d = z² / (n + z²).
        (0, 0, 200, -0.0188453, 0.0188453),
        # With all of them gained q = (1 - d) / 2, and n (1 - d) = z √(n (1 - d²)), so that (1 - d) / (1 + d) = z² / n.
        (20, 0, 20, (20 - Z2) / (20 + Z2), 1.0),
    ],
)
def test_tango_interval(gained: int, lost: int, n: int, low: float, high: float) -> None:
    digits = 6e-4 if n == 32 else 6e-5
    assert paired_interval(gained, lost, n) == pytest.approx((low, high), abs=digits)
    assert paired_interval(lost, gained, n) == pytest.approx((-high, -low), abs=digits)


def test_a_paired_interval_agrees_with_mcnemars_test_and_stays_in_range() -> None:
    for n in (1, 2, 9, 40):
        for gained in range(n + 1):
            for lost in range(n + 1 - gained):
                low, high = paired_interval(gained, lost, n)
                assert -1 <= low <= (gained - lost) / n <= high <= 1
                assert high - low > 0
                # At a difference of 0 the score is McNemar's: (gained - lost) / √(gained + lost).
                assert (low > 0 or high < 0) == ((gained - lost) ** 2 > Z2 * (gained + lost))


@pytest.mark.parametrize("n", [10, 20, 30])
def test_a_paired_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    """All outcomes, each with its probability. Wald's, which was used before, covers 18 to 45 % at worst here."""
    cells = np.array([(gained, lost, n - gained - lost) for gained in range(n + 1) for lost in range(n + 1 - gained)])
    ends = np.array([paired_interval(int(gained), int(lost), n) for gained, lost, _ in cells])
    for discordant in (0.02, 0.05, 0.1, 0.2, 0.4, 0.6):
        for share in (0.5, 0.6, 0.75, 0.9, 1.0):
            gain, loss = discordant * share, discordant * (1 - share)
            inside = (ends[:, 0] <= gain - loss + 1e-9) & (gain - loss - 1e-9 <= ends[:, 1])
            assert multinomial.pmf(cells, n, [gain, loss, 1 - discordant])[inside].sum() > 0.94


def test_a_difference_is_of_the_same_images_in_points() -> None:
    # 50 both, 10 the first alone, 5 the second alone, 35 neither: -5 points.
    first = np.repeat([True, True, False, False], [50, 10, 5, 35])
    second = np.repeat([True, False, True, False], [50, 10, 5, 35])
    low, high = paired_interval(5, 10, 100)
    assert difference(first, second) == pytest.approx((-5.0, 100 * low, 100 * high))
    assert difference(second, first) == pytest.approx((5.0, -100 * high, -100 * low))
    assert difference(first, first) == pytest.approx((0.0, -3.6994, 3.6994), abs=1e-4)  # z² / (100 + z²)


def test_a_paired_interval_solves_its_equation() -> None:
    for d, sign in zip(paired_interval(5, 10, 100), (1, -1), strict=True):
        # q by trying all: the likelihood of 5 gained, 10 lost and 85 others, where the difference is d.
        q = np.linspace(max(0, -d) + 1e-9, (1 - d) / 2 - 1e-9, 2_000_001)
        likely = q[np.argmax(5 * np.log(q + d) + 10 * np.log(q) + 85 * np.log(1 - 2 * q - d))]
        score = (5 - 10 - 100 * d) / math.sqrt(100 * (2 * likely + d - d * d))
        assert score == pytest.approx(sign * 1.959964, abs=1e-4)


def test_the_joint_interval_is_the_sum_of_both_errors() -> None:
    # Seeds 1 and 3: mean 2, t(1) = 12.706, half width 12.706 × √2 / √2. Images: 1.95996 × √(0.25 / 4) = 0.48999.
    assert joint_interval([1.0, 3.0], 0.25, 4) == pytest.approx((2, 2 - 12.7156, 2 + 12.7156), abs=1e-3)
    assert joint_interval([0.5, 0.5], 0.25, 100) == pytest.approx((0.5, 0.5 - 0.097998, 0.5 + 0.097998), abs=1e-6)
    assert joint_interval([0.5], 0.25, 100) is None
    assert outcome_variance(1.0, 96) == pytest.approx(0.98 * 0.02)


def test_the_joint_interval_holds_for_other_seeds_and_other_images() -> None:
    """Each seed moves all logits by a normal of its own; an image is as difficult for all seeds."""
    rng, n, trials, held = np.random.default_rng(3), 200, 2000, 0
    truth = 0.5  # by symmetry
    for _ in range(trials):
        seeds, images = rng.normal(0, 0.2, (3, 1)), rng.normal(0, 1, n)
        shares = ((seeds + images + rng.normal(0, 0.5, (3, n))) > 0).mean(1)
        found = joint_interval(shares.tolist(), outcome_variance(float(shares.mean()), n), n)
        assert found is not None
        held += found[1] <= truth <= found[2]
    assert held / trials >= 0.95
