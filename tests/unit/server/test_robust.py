"""Robust strategies: Flower's own results, by hand and bit for bit; only weights decide whose reply is near."""

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum

from common.config.tables import StrategyConfig
from common.errors import FedShieldError
from server.aggregation.robust import RobustMean
from server.aggregation.rules import RULES, check_strategy
from server.aggregation.server_optimizer import OPTIMIZERS, ServerOptimizer
from tests.helpers.settings import tiny_config

pytestmark = pytest.mark.usefixtures("speaking")

WEIGHTS = {"weight", "bias"}


def record(values: Sequence[float], counter: int = 3, variance: float = 1.0) -> ArrayRecord:
    return ArrayRecord(
        {
            "weight": Array(np.array(values, dtype=np.float32)),
            "running_var": Array(np.array([variance], dtype=np.float32)),
            "counter": Array(np.array(counter)),
            "bias": Array(np.array([values[0]], dtype=np.float32)),
        }
    )


class AboutOne:
    """A server whose own images say that the weights should be 1."""

    def train(self, model: ArrayRecord, server_round: int, images: int) -> ArrayRecord:
        return ArrayRecord({name: Array(np.ones_like(array.numpy())) for name, array in model.items()})

    def loss(self, model: ArrayRecord) -> float:
        return float(np.abs(model["weight"].numpy() - 1).mean())


def result(
    name: str,
    malicious: int,
    records: Sequence[ArrayRecord],
    examples: Sequence[int] = (),
    model: ArrayRecord | None = None,
) -> ArrayRecord:
    if model is None:
        model = ArrayRecord({key: Array(np.zeros_like(array.numpy())) for key, array in records[0].items()})
    mean = RobustMean(name, malicious, model, WEIGHTS, root=AboutOne())  # type: ignore[arg-type]
    for found, count in zip(records, examples or [1] * len(records), strict=True):
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
    assert list(found) == ["weight", "running_var", "counter", "bias"]


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
    for model in (np.zeros(40, np.float32), rng.normal(size=40).astype(np.float32)):
        found = result(name, 2, records(), examples, ArrayRecord({"weight": Array(model)}))
        assert np.array_equal(found["weight"].numpy(), expected["weight"].numpy())


def test_counters_have_no_say_in_who_is_near_and_are_those_of_the_chosen() -> None:
    # By weights the liar at 100 is far from everyone; by counters, which Flower would count in, it is in the middle.
    counters = (0, 2000, 4000, 6000, 3000)
    records = [record([value], counter) for value, counter in zip((0, 1, 2, 3, 100), counters, strict=True)]
    found = result("krum", 1, records)
    assert found["weight"].numpy().tolist() == [1.0]
    assert found["counter"].numpy() == 2000
    assert found["counter"].dtype == "int64"
    assert result("median", 1, records)["counter"].numpy() == 3000  # the mean of all


def test_a_lie_about_weights_is_not_lost_among_statistics() -> None:
    """By whole replies the liar, whose variance is in the middle, is nearest to the others; by weights it is not."""
    variances = (0, 2000, 4000, 6000, 3000)
    records = [record([value], 0, variance) for value, variance in zip((0, 1, 2, 3, 100), variances, strict=True)]
    replies = [
        Message(RecordDict({"arrays": each, "metrics": MetricRecord({"num-examples": 1})}), 1, "train")
        for each in (record([value], 0, variance) for value, variance in zip((0, 1, 2, 3, 100), variances, strict=True))
    ]
    whole, _ = Krum(num_malicious_nodes=1).aggregate_train(1, replies)
    assert whole is not None
    assert whole["weight"].numpy().tolist() == [100.0]

    krum = result("krum", 1, records)
    assert (krum["weight"].numpy(), krum["running_var"].numpy()) == (1, 2000)
    # The four at 0, 1, 2 and 3. One of five may lie: variances are kept between the second and the fourth, 2000 and
    # 4000, so those of the four are 2000, 2000, 4000 and 4000.
    several = result("multi-krum", 1, records)
    assert (several["weight"].numpy(), several["running_var"].numpy()) == (1.5, 3000)
    # Of seven, Bulyan chooses the five at 0 to 4, and of their variances the three in the middle.
    variances = (0, 1000, 2000, 3000, 4000, 1900, 2100)
    seven = [record([w], 0, v) for w, v in zip((0, 1, 2, 3, 4, 50, 100), variances, strict=True)]
    bulyan = result("bulyan", 1, seven)
    assert (bulyan["weight"].numpy(), bulyan["running_var"].numpy()) == (2, 2000)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("lie", [0.0, 1e30])
def test_a_lie_about_statistics_moves_them_no_further_than_an_honest_client_does(name: str, lie: float) -> None:
    """The liars' weights are in the middle, where Krum chooses them."""
    honest = [record([1 + 0.1 * place], 0, 10 + place) for place in range(-4, 5) if place]
    liars = [record([1.0], 0, lie), record([1.001], 0, lie)]
    found = result(name, 2, [*liars, *honest])
    assert found["weight"].numpy() == pytest.approx(1, abs=0.5)
    assert 6 <= found["running_var"].numpy() <= 14
    assert found["running_var"].dtype == "float32"


def test_krum_sees_updates_that_are_short_beside_the_weights() -> None:
    """Squares of 1000 000 000 hide a distance of 1 in float32, so that Flower's Krum chooses by rounding alone."""
    # In hundredths: of five, the two nearest to 1 are 1 and 2 away (1 + 4), those of 0: 1 + 9, of 3: 4 + 9.
    states = [np.full(1000, 1000 + shift, np.float32) for shift in (0.06, 0.03, 0.01, 0.0, 0.2)]
    records = [ArrayRecord({"weight": Array(state)}) for state in states]
    model = ArrayRecord({"weight": Array(np.full(1000, 1000, np.float32))})
    assert np.array_equal(result("krum", 1, records, model=model)["weight"].numpy(), states[2])


def test_a_lie_longer_than_a_float_tells_is_far_from_all(recwarn: pytest.WarningsRecorder) -> None:
    records = [record([value]) for value in (0, 1, 2, 3, 1e30)]
    assert result("multi-krum", 1, records)["weight"].numpy().tolist() == [1.5]
    assert list(recwarn) == []


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
        return tiny_config().strategy.model_copy(update={"name": name, "malicious": malicious})

    for name, most in (("krum", 3), ("multi-krum", 3), ("bulyan", 1), ("trimmed-mean", 4), ("median", 4)):
        check_strategy(settings(name, most), 10)
        with pytest.raises(FedShieldError, match=rf"^strategy\.malicious = {most + 1}: strategy\.name = {name} needs "):
            check_strategy(settings(name, most + 1), 10)
    check_strategy(settings("fedavg", 9), 10)


def test_every_name_has_a_rule() -> None:
    named = StrategyConfig.model_json_schema()["properties"]["name"]["enum"]
    assert set(named) == {"fedavg", *RULES, *OPTIMIZERS, "qfedavg", "FILE.py:NAME"}


def optimized(name: str, rounds: int, **changes: object) -> float:
    """Let the server's optimizer see the means 1 and 3 in turn, from w = 0; it begins again before each round."""
    settings, kept, model = tiny_config(strategy__name=name, **changes).strategy, {}, {"w": torch.zeros(1)}
    for number in range(1, rounds + 1):
        mean = {"w": model["w"] + (1.0 if number % 2 else 3.0), "var": torch.full((1,), 5.0)}
        model = ServerOptimizer(settings, {"w"}, kept).step(number, model, mean)
        assert model["var"].item() == 5.0  # the mean of statistics is left alone
    return model["w"].item()


def test_server_optimizers_by_hand() -> None:
    # v = 0.5 v + Δ: 1, 3.5; w = 0.2 × (1 + 3.5)
    changes = {"strategy__server_rate": 0.2, "strategy__server_momentum": 0.5}
    assert optimized("fedavgm", 2, **changes) == pytest.approx(0.9)
    # Δ = 1: m = 0.5, v = 0.01, η = 0.2 √(1 − 0.99²) / (1 − 0.5²) (Flower counts from 0): 0.037617; w = η m / (0.1 + τ)
    step = 0.2 * (1 - 0.99**2) ** 0.5 / 0.75 * 0.5 / (0.1 + 0.1)
    assert optimized("fedadam", 1, strategy__server_tau=0.1, **changes) == pytest.approx(step)
    # Adagrad has no momentum: v = 1, then 10; w = 0.2 × (1 / (1 + τ) + 3 / (√10 + τ))
    steps = 0.2 * (1 / 1.1 + 3 / (10**0.5 + 0.1))
    assert optimized("fedadagrad", 2, strategy__server_tau=0.1, **changes) == pytest.approx(steps)
    # v = 0 − 0.01 · 1 · sign(0 − 1) = 0.01; w = 0.2 × 0.5 / (0.1 + τ)
    assert optimized("fedyogi", 1, strategy__server_tau=0.1, **changes) == pytest.approx(0.5)
