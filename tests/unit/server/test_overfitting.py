"""Catastrophic overfitting is told once, when it begins."""

import pytest

from common.evaluation.overfitting import told_overfitting


@pytest.mark.parametrize(
    ("accuracies", "told"),
    [
        ({"fgsm": 0.5, "pgd-10": 0.25}, True),
        ({"fgsm": 0.5, "pgd-10": 0.26}, False),  # more than half
        ({"fgsm": 0.19, "pgd-10": 0.0}, False),  # less than 20 points
        ({"fgsm": 0.9, "pgd-2": 0.8, "pgd-10": 0.0}, True),  # the strongest decides
        ({"fgsm": 0.9}, False),
        ({"pgd-10": 0.0, "natural": 0.9}, False),
    ],
)
def test_fgsm_high_and_pgd_near_zero(accuracies: dict[str, float], told: bool) -> None:
    assert bool(told_overfitting(accuracies)) == told
