"""Rules that give each update a share: by hand, and behind the guard."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import FedShieldError
from server.aggregation.robust import RobustMean
from server.aggregation.rules import check_strategy
from server.aggregation.shares import (
    centered_clipping,
    clipped,
    geometric_median,
    inner_products,
    mixed,
)
from tests.helpers.settings import tiny_config
from tests.unit.server.test_robust import WEIGHTS, record

pytestmark = pytest.mark.usefixtures("speaking")

Points = NDArray[np.float64]


def products(points: Points) -> Points:
    found: Points = points @ points.T
    return found


def line(*values: float) -> Points:
    return np.array(values)[:, None]


def test_inner_products_are_those_of_updates_of_weights_alone() -> None:
    records = [record([3.0, 2.0], 9, 7.0), record([1.0, 1.0], 5, 6.0)]
    model = record([1.0, 0.0], 1, 2.0)
    # Updates (2, 2) and (0, 1), and the bias, which is the first value: 2 and 0.
    assert inner_products(records, model, WEIGHTS).tolist() == [[12, 2], [2, 1]]


def test_nearest_neighbor_mixing_by_hand() -> None:
    """Of 0, 1, 5 and 100 each is averaged with the two nearest: (0, 1, 5), (0, 1, 5), (5, 1, 0), (100, 5, 1)."""
    points = line(0, 1, 5, 100)
    assert (mixed(products(points), 1) @ points).ravel().tolist() == pytest.approx([2, 2, 2, 106 / 3])


def test_adaptive_clipping_by_hand() -> None:
    """Lengths 1, 2, 3, 10: one liar shortens ⌊2 · 1/4 · 3⌋ = 1 update, to 3; two shorten ⌊2 · 2/4 · 2⌋ = 2, to 2."""
    points = line(1, -2, 3, 10)
    assert (clipped(products(points), 1) @ points).ravel().tolist() == pytest.approx([1, -2, 3, 3])
    assert (clipped(products(points), 2) @ points).ravel().tolist() == pytest.approx([1, -2, 2, 2])
    assert (clipped(products(points), 0) @ points).ravel().tolist() == pytest.approx([1, -2, 3, 10])
    assert clipped(products(line(0, 0, 0)), 1).tolist() == np.eye(3).tolist()


def median_of(points: Points, images: Sequence[float]) -> list[float]:
    found: list[float] = (geometric_median(products(points), np.array(images, float)) @ points).tolist()
    return found


def test_geometric_median_by_hand() -> None:
    # Of four corners it is where the diagonals cross, y = x and x + y = 4; of a point within a triangle, that point.
    assert median_of(np.array([[0, 0], [6, 6], [0, 4], [4.0, 0]]), [1, 1, 1, 1]) == pytest.approx([2, 2], abs=1e-5)
    assert median_of(np.array([[0, 0], [9, 0], [0, 9], [2.0, 3]]), [1, 1, 1, 1]) == pytest.approx([2, 3], abs=1e-4)
    assert median_of(line(0, 1, 1e30), [1, 1, 1]) == pytest.approx([1], abs=1e-4)
    assert median_of(line(0, 1, 100), [1, 1, 3]) == pytest.approx([100], abs=1e-4)  # who has most images outweighs


def test_centered_clipping_by_hand() -> None:
    points = line(1, 2, 9)
    # τ = 2: (1 + 2 + 2) / 3 = 5/3; + (-2/3 + 1/3 + 2) / 3 = 20/9; + (-11/9 - 2/9 + 2) / 3 = 65/27
    assert (centered_clipping(products(points), 2.0) @ points).tolist() == pytest.approx([65 / 27])
    # Median distances 2, 2/3 and 7/9: 5/3; + (-2/3 + 1/3 + 2/3) / 3 = 16/9; + (-7/9 + 2/9 + 7/9) / 3 = 50/27
    assert (centered_clipping(products(points), 0.0) @ points).tolist() == pytest.approx([50 / 27])


def result(name: str, values: Sequence[float], malicious: int = 1, pre: str = "none", **stated: Sequence[float]):  # type: ignore[no-untyped-def]
    variances = stated.get("variances", [1.0] * len(values))
    mean = RobustMean(name, malicious, record([0.0], 3), WEIGHTS, pre)
    for value, variance in zip(values, variances, strict=True):
        mean.add(record([value], 5, variance), 1)
    return mean.result()


def test_a_model_is_made_of_the_shares() -> None:
    found = result("geometric-median", [0, 1, 2, 3, 1e30])
    assert found["weight"].numpy() == pytest.approx([2], abs=1e-4)
    assert (list(found), found["counter"].numpy(), found["counter"].dtype) == (
        ["weight", "running_var", "counter", "bias"],
        5,
        "int64",
    )
    # Each of 0, 1, 2, 3 and 100 becomes the mean of its four nearest: 1.5, 1.5, 1.5, 1.5 and 106/4; then the median.
    assert result("median", [0, 1, 2, 3, 100], pre="nnm")["weight"].numpy() == pytest.approx([1.5])
    # ⌊2 · 1/5 · 4⌋ = 1 is shortened, to 3: the middle three of 0, 1, 2, 3, 3.
    assert result("trimmed-mean", [0, 1, 2, 3, 100], pre="arc")["weight"].numpy() == pytest.approx([2])


@pytest.mark.parametrize(("name", "pre"), [("geometric-median", "none"), ("krum", "nnm"), ("median", "arc")])
@pytest.mark.parametrize("lie", [0.0, 1e30])
def test_a_lie_about_statistics_moves_them_no_further_than_an_honest_client_does(
    name: str, pre: str, lie: float
) -> None:
    """It is kept within the others' range before it is mixed with theirs."""
    found = result(name, [1.0, 1.1, 0.9, 1.05, 1.0], 1, pre, variances=[10, 11, 12, 13, lie])
    assert 10 <= found["running_var"].numpy() <= 13


def test_preparing_for_a_rule_that_is_not_robust_is_refused() -> None:
    settings = tiny_config(strategy__pre="nnm").strategy
    with pytest.raises(FedShieldError, match=r"^strategy\.pre = nnm: .* and strategy\.name = fedavg is none; set"):
        check_strategy(settings, 10)
    check_strategy(settings.model_copy(update={"name": "krum"}), 10)
    with pytest.raises(FedShieldError, match=r"^strategy\.malicious = 5: strategy\.name = geometric-median needs 11"):
        check_strategy(settings.model_copy(update={"name": "geometric-median", "malicious": 5}), 10)
