"""Robust strategies: Flower's own results, by hand and bit for bit, and counters that have no say."""

import logging
from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum

from common.config.tables import StrategyConfig
from common.errors import FedShieldError
from server.aggregation.robust import RULES, RobustMean, check_strategy

pytestmark = pytest.mark.usefixtures("speaking")


def record(values: Sequence[float], counter: int = 3) -> ArrayRecord:
    return ArrayRecord(
        {
            "weight": Array(np.array(values, dtype=np.float32)),
            "counter": Array(np.array(counter)),
            "bias": Array(np.array([values[0]], dtype=np.float32)),
        }
    )


def result(name: str, malicious: int, records: Sequence[ArrayRecord], examples: Sequence[int] = ()) -> ArrayRecord:
    weights = examples or [1] * len(records)
    mean = RobustMean(name, malicious, sum(weights))
    for found, count in zip(records, weights, strict=True):
        mean.add(found, count)
    return mean.result()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 0, 1, 2 and 3 are honest, 100 is not. Krum, f = 1: the sums of the 2 smallest squared distances are 5 for 0,
        # 2 for 1, 2 for 2, 5 for 3 (twice as much with the bias); of equals the first. The mean of the 4 best; of 1, 2
        # and 3; the middle.
        ("krum", 1.0),
        ("multi-krum", 1.5),
        ("trimmed-mean", 2.0),
        ("median", 2.0),
    ],
)
def test_by_hand(name: str, expected: float) -> None:
    found = result(name, 1, [record([value]) for value in (0, 1, 2, 3, 100)])
    assert found["weight"].numpy().tolist() == [expected]
    assert found["weight"].dtype == "float32"
    assert list(found) == ["weight", "counter", "bias"]


def test_bulyan_by_hand() -> None:
    # Seven replies, f = 1: the 5 with the best Krum scores (0, 1, 2, 3 and 4), of which in each weight the 3 nearest to
    # the median 2 are averaged.
    found = result("bulyan", 1, [record([value]) for value in (0, 1, 2, 3, 4, 50, 100)])
    assert found["weight"].numpy().tolist() == [2.0]


@pytest.mark.parametrize(
    ("name", "flowers"),
    [
        ("krum", Krum(num_malicious_nodes=2)),
        ("multi-krum", MultiKrum(num_malicious_nodes=2, num_nodes_to_select=9)),
        ("bulyan", Bulyan(num_malicious_nodes=2)),
        ("trimmed-mean", FedTrimmedAvg(beta=2.5 / 11)),
        ("median", FedMedian()),
    ],
)
def test_without_counters_it_is_flowers_strategy_bit_for_bit(name: str, flowers: FedAvg) -> None:
    rng = np.random.default_rng(1)
    values = [rng.normal(size=40).astype(np.float32) for _ in range(11)]
    examples = [int(count) for count in rng.integers(10, 50, 11)]

    def records() -> list[ArrayRecord]:
        return [ArrayRecord({"weight": Array(value)}) for value in values]

    replies = [
        Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": count})}), 1, "train")
        for arrays, count in zip(records(), examples, strict=True)
    ]
    expected, _ = flowers.aggregate_train(1, replies)
    assert expected is not None
    found = result(name, 2, records(), examples)
    assert np.array_equal(found["weight"].numpy(), expected["weight"].numpy())


def test_counters_are_averaged_apart_and_have_no_say_in_who_is_near() -> None:
    # By weights the liar at 100 is far from everyone; by counters, which Flower would count in, it is in the middle.
    counters = (0, 2000, 4000, 6000, 3000)
    records = [record([value], counter) for value, counter in zip((0, 1, 2, 3, 100), counters, strict=True)]
    found = result("krum", 1, records)
    assert found["weight"].numpy().tolist() == [1.0]
    assert found["counter"].numpy() == 3000
    assert found["counter"].dtype == "int64"


def test_liars_that_agree_do_not_win_where_the_mean_loses() -> None:
    rng = np.random.default_rng(2)
    honest = [rng.normal(1.0, 0.1, 30) for _ in range(11)]
    records = [record(values) for values in [*honest, *[-5 * np.ones(30)] * 2]]
    for name in RULES:
        weight = result(name, 2, records)["weight"].numpy()
        assert np.abs(weight - 1).max() < 0.5, name


def test_missing_replies_count_among_the_liars(caplog: pytest.LogCaptureFixture) -> None:
    """Ten clients bear three liars by Krum's 2 f + 3 <= n; with eight replies two of them may still lie."""
    logging.getLogger("fedshield").propagate = True
    records = [record([value]) for value in (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 9.0, 9.0)]
    assert result("multi-krum", 3, records)["weight"].numpy() == pytest.approx([1.25])
    assert (
        "8 valid replies: strategy.name = multi-krum tolerates 2 liars among them, not strategy.malicious = 3"
        in caplog.text
    )


def test_too_few_replies_even_without_a_liar_end_the_run() -> None:
    with pytest.raises(
        FedShieldError, match=r"^strategy\.name = bulyan needs 3 valid replies, there are 2; raise federation"
    ):
        result("bulyan", 1, [record([value]) for value in range(2)])


def test_a_strategy_that_cannot_stand_so_many_liars_is_refused_at_once() -> None:
    def settings(name: str, malicious: int) -> StrategyConfig:
        return StrategyConfig.model_validate({"name": name, "malicious": malicious, "update-limit": 5.0})

    for name, most in (("krum", 3), ("multi-krum", 3), ("bulyan", 1), ("trimmed-mean", 4), ("median", 4)):
        check_strategy(settings(name, most), 10)
        with pytest.raises(FedShieldError, match=rf"^strategy\.malicious = {most + 1}: strategy\.name = {name} needs "):
            check_strategy(settings(name, most + 1), 10)
    check_strategy(settings("fedavg", 9), 10)


def test_every_name_has_a_rule() -> None:
    assert set(get_args(StrategyConfig.model_fields["name"].annotation)) == {"fedavg", *RULES}
