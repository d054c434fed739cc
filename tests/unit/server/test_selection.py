"""Which clients train: today's bits, in proportion, by loss, by a user's rule; the same when resumed."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from common.errors import FedShieldError
from common.seeding import rng_for
from server.aggregation.selection import Candidates, Cohort, Select, check_selection, find_selection
from server.run_directory.reader import read_metrics
from simulations.engine.process_executor import Processes
from tests.helpers.pages import own_file
from tests.helpers.runs import figures, run, run_in_parts, run_with, same, weights
from tests.helpers.settings import tiny_config


def select(name: str, **changes: object) -> Select:
    return find_selection(tiny_config(federation__selection=name, **changes).federation)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def candidates(size: int, images: Sequence[int], losses: Sequence[float | None] = ()) -> Candidates:
    return Candidates(size, 1, images, losses or [None] * len(images))


def test_uniform_chooses_as_it_always_has() -> None:
    cohort = Cohort(3, 3, (5,) * 10, seed=7, select=select("uniform"))
    for number in (1, 2, 3):
        expected = sorted(rng_for(7, "cohort", number).permutation(10)[:3].tolist())
        assert cohort.sample(number) == expected == Cohort(3, 3, (5,) * 10, seed=7).sample(number)


def test_size_draws_in_proportion_and_nobody_twice() -> None:
    by_size, counts = select("size"), Counter[tuple[int, ...]]()
    for seed in range(2000):
        counts[tuple(by_size(candidates(2, [1, 3, 6]), rng(seed)))] += 1
    # 0.6 × 0.3 / 0.4 for first 2, then 1; 0.1 × 0.3 / 0.9 for first 0, then 1
    assert counts[2, 1] / 2000 == pytest.approx(0.45, abs=0.04)
    assert counts[0, 1] / 2000 == pytest.approx(0.033, abs=0.015)
    assert all(len(set(pair)) == 2 for pair in counts)


def test_power_of_choice_takes_the_highest_losses_of_those_it_draws() -> None:
    losses = [1.0, 4.0, 2.0, 3.0]
    every = select("power-of-choice", federation__selection_among=4)
    assert every(candidates(2, [10] * 4, losses), rng()) == [1, 3]
    assert every(candidates(2, [10] * 4, [1.0, 4.0, None, 3.0]), rng()) == [2, 1]  # without a loss comes first
    two = select("power-of-choice", federation__selection_among=2)
    seen = {tuple(two(candidates(1, [10] * 4, losses), rng(seed))) for seed in range(60)}
    assert seen == {(1,), (2,), (3,)}  # client 0 has the lowest loss of any two
    twice = select("power-of-choice")
    assert {tuple(twice(candidates(1, [10] * 4, losses), rng(seed))) for seed in range(60)} == seen


OWN = """
def first(candidates, rng):
    return range(candidates.size)
def same(candidates, rng):
    return [0] * candidates.size
def outside(candidates, rng):
    return range(len(candidates.images), len(candidates.images) + candidates.size)
def losing(candidates, rng):
    known = [loss or 9.0 for loss in candidates.losses]
    return sorted(rng.permutation(len(known)), key=lambda client: -known[client])[: candidates.size]
def failing(candidates, rng):
    return candidates.loss
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def test_what_a_users_rule_chooses_is_checked(own: str) -> None:
    assert Cohort(2, 2, (5,) * 4, 1, select(f"{own}:first")).sample(1) == [0, 1]
    for name, told in (
        ("same", "chooses [0, 0] in round 1; return 2 different clients, from 0 to 3"),
        ("outside", "chooses [4, 5] in round 1; return 2 different clients, from 0 to 3"),
        ("failing", "line 12: AttributeError: 'Candidates' object has no attribute 'loss'"),
    ):
        with pytest.raises(FedShieldError, match=rf"^federation.selection = .*{re.escape(told)}"):
            select(f"{own}:{name}")(candidates(2, [5] * 4), rng())
    Path(own).with_name("rare.py").write_text(own_file("rare.py"))
    assert set(select(f"{Path(own).with_name('rare.py')}:rare")(candidates(2, [9, 1, 5, 2]), rng())) == {1, 3}


def test_a_choice_among_too_few_is_refused_and_one_without_effect_is_told(caplog: pytest.LogCaptureFixture) -> None:
    few = {"federation__selection": "power-of-choice", "federation__fraction": 0.5, "federation__selection_among": 4}
    with pytest.raises(
        FedShieldError, match=r"federation.selection-among = 4: 5 of 10 clients train in a round; set it"
    ):
        check_selection(tiny_config(**few).federation)
    caplog.set_level(logging.INFO, "fedshield")
    logging.getLogger("fedshield").addHandler(caplog.handler)
    check_selection(tiny_config(federation__selection="size").federation)
    logging.getLogger("fedshield").removeHandler(caplog.handler)
    assert "federation.selection = size has no effect: all 10 clients train in each round" in caplog.text


def test_the_choice_by_loss_is_the_same_in_processes_and_when_resumed(own: str, tmp_path: Path) -> None:
    changes = {"federation__selection": f"{own}:losing", "federation__fraction": 0.3, "federation__rounds": 5}
    whole = run(tmp_path, "whole", **changes)
    chosen = [sorted(map(int, line["clients"])) for line in read_metrics(whole)]
    assert {client for clients in chosen[:4] for client in clients} == set(range(10))  # each once before one twice
    assert (whole / "own" / "selection.py").read_text() == OWN

    other = run_with(Processes, tmp_path, "other", **changes)
    assert same(weights(other), weights(whole))

    part = run_in_parts(tmp_path, lambda reply: reply.server_round == 4, **changes)
    assert same(weights(part), weights(whole))
    assert figures(part) == figures(whole)
