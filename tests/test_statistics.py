"""Intervals and tests against the tables of their papers, sums by hand, and what an interval must do."""

import math
from fractions import Fraction

import pytest

from common.evaluation.results import Rate
from common.statistics import binomial_tail, sampling_error, sign_test, t_interval, wilson_interval

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
