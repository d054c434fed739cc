"""The learning rate over a run: every value worked out by hand."""

import pytest

from common.factory import training_plan
from common.training.schedule import learning_rate
from tests.helpers.settings import tiny_config


def rates(kind: str, base: float, total: int, milestones: tuple[int, ...] = (), warmup: int = 0) -> list[float]:
    return [learning_rate(kind, base, number, total, milestones, warmup) for number in range(1, total + 1)]


def test_milestones_divide_by_ten_after_their_rounds() -> None:
    assert rates("milestones", 0.1, 6, (2, 4)) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert rates("milestones", 0.1, 3) == [0.1, 0.1, 0.1]
    assert rates("milestones", 0.1, 2, (0,)) == pytest.approx([0.01, 0.01])
    # A run of another length has the same rates as far as both go: such a run may be made longer.
    assert rates("milestones", 0.1, 9, (2, 4))[:6] == rates("milestones", 0.1, 6, (2, 4))


def test_cosine_falls_from_the_base_to_near_zero() -> None:
    # (1 + cos 0) / 2, (1 + cos 45°) / 2, (1 + cos 90°) / 2, (1 + cos 135°) / 2
    assert rates("cosine", 0.2, 4) == pytest.approx([0.2, 0.2 * 0.8535534, 0.1, 0.2 * 0.1464466])
    assert rates("cosine", 0.2, 1) == [0.2]


def test_cyclic_is_one_triangle_with_its_peak_at_forty_percent() -> None:
    # Middles of the five rounds: 10, 30, 50, 70, 90 % of the run; up by 1 over 40 %, down by 1 over 60 %.
    assert rates("cyclic", 1.0, 5) == pytest.approx([0.25, 0.75, 5 / 6, 0.5, 1 / 6])
    # 5, 15, ..., 95 %: the fourth round (35 %) and the fifth (45 %) are on either side of the peak.
    assert rates("cyclic", 0.4, 10) == pytest.approx(
        [0.05, 0.15, 0.25, 0.35, *(0.4 * left / 60 for left in (55, 45, 35, 25, 15, 5))]
    )
    assert rates("cyclic", 0.6, 1) == pytest.approx([0.5])  # 50 %: five sixths


def test_warmup_rises_linearly_to_what_the_rate_would_be() -> None:
    assert rates("milestones", 0.1, 6, (), 4) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert rates("milestones", 0.1, 5, (2,), 4) == pytest.approx([0.025, 0.05, 0.0075, 0.01, 0.01])
    assert rates("cosine", 0.2, 4, warmup=2) == pytest.approx([0.1, 0.2 * 0.8535534, 0.1, 0.2 * 0.1464466])
    assert rates("cyclic", 1.0, 5, warmup=1) == rates("cyclic", 1.0, 5)
    assert rates("milestones", 0.1, 2, (), 9) == pytest.approx([0.1 / 9, 0.2 / 9])  # longer than the run


@pytest.mark.parametrize("kind", ["milestones", "cosine", "cyclic"])
def test_no_round_trains_with_nothing_or_with_more_than_the_base(kind: str) -> None:
    for total in (1, 2, 3, 30, 200):
        for warmup in (0, 5):
            assert all(0 < rate <= 0.1 for rate in rates(kind, 0.1, total, (10, 20), warmup))


def test_the_configuration_reaches_the_schedule() -> None:
    config = tiny_config(train__schedule="cyclic", train__learning_rate=0.8, train__warmup=4)
    schedule = training_plan(config, 3, 2, 5)
    assert schedule.learning_rate == pytest.approx(0.8 * 0.75 * 2 / 4)
    assert (schedule.epochs, schedule.batch_size, schedule.momentum) == (3, 16, 0.9)
    milestones = tiny_config(train__milestones="1,3", train__learning_rate=0.8)
    found = [training_plan(milestones, 1, number, 4).learning_rate for number in (1, 2, 3, 4)]
    assert found == pytest.approx([0.8, 0.08, 0.08, 0.008])
