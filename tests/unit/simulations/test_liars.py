"""Clients that lie together: what they send, by hand, and what a strategy makes of it."""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch

from common.config.values import LieName
from common.errors import FedShieldError
from server.aggregation.selection import Cohort
from server.app import run_federation
from server.run_directory.reader import read_metrics
from simulations.engine.byzantine import ByzantineExecutor, check_liars, choose_liars
from simulations.engine.executor import Executor, InProcess, Job, Outcome
from simulations.engine.lies import ATTACKS, TRAINED, deviations
from simulations.engine.local_grid import LocalGrid
from simulations.studies.trial import try_out
from tests.helpers.overheard import Overheard
from tests.helpers.settings import tiny_config

UPDATES = torch.tensor([[1.0, 2.0, -4.0], [3.0, 2.0, 0.0]])


def lie(name: str, strength: float = 1.0, cohort: int = 10) -> torch.Tensor:
    return ATTACKS[name](UPDATES, strength, cohort, torch.Generator().manual_seed(1))


def test_lies_by_hand() -> None:
    assert lie("sign-flip", 3).tolist() == [-6, -6, 6]
    assert lie("scaled", 10).tolist() == [20, 20, -20]
    # Of 11 clients 2 lie: s = ⌊6.5⌋ - 2 = 4, z = Φ⁻¹(5/9) = 0.1397; standard deviations 1, 0 and 2.
    assert lie("alie", 1, 11).tolist() == pytest.approx([2 - 0.1397, 2, -2 - 2 * 0.1397], abs=1e-4)
    # Of 10, s = 6 - 2 = 4: z = Φ⁻¹(4/8) = 0, the mean: so few cannot hide in so few.
    assert lie("alie", 1, 10).tolist() == [2, 2, -2]
    noise = ATTACKS["gaussian"](torch.full((2, 40000), 0.5), 3, 10, torch.Generator().manual_seed(1))
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1.5, rel=0.02)


@pytest.mark.parametrize(
    ("cohort", "expected"),
    [
        # ⌈n/2⌉ - 1 honest clients of n - m are nearer to the mean. For n = 10: 4/10, 4/9, 4/8, 4/7, 4/6, 4/5; from six
        # liars of ten on there is no limit.
        (10, [-0.2533, -0.1397, 0.0, 0.1800, 0.4307, *[0.8416] * 6]),
        # 5/11, 5/10, 5/9, 5/8, 5/7, 5/6
        (11, [-0.1142, 0.0, 0.1397, 0.3186, 0.5659, *[0.9674] * 7]),
        (4, [-0.6745, -0.4307, *[0.0] * 3]),  # 1/4, 1/3, 1/2
        (3, [-0.4307, *[0.0] * 3]),  # 1/3, 1/2
        (2, [0.0] * 3),
        (1, [0.0] * 2),
    ],
)
def test_how_far_alie_goes_by_hand_for_every_number_of_liars(cohort: int, expected: list[float]) -> None:
    assert [deviations(liars, cohort) for liars in range(cohort + 1)] == pytest.approx(expected, abs=5e-5)


def test_how_far_alie_goes_in_its_authors_example() -> None:
    """24 of 50: s = 26 - 24 = 2, Φ⁻¹(24/26)."""
    assert deviations(24, 50) == pytest.approx(1.4261, abs=5e-5)


def test_no_number_of_liars_and_clients_is_too_much_for_alie() -> None:
    assert all(math.isfinite(deviations(liars, n)) for n in range(1, 60) for liars in range(n + 1))


def test_liars_that_could_do_nothing_are_refused_before_the_run() -> None:
    alie = {"byzantine__attack": "alie", "partition__scheme": "iid"}
    check_liars(tiny_config(**alie))
    check_liars(tiny_config(**alie, byzantine__clients=2, federation__fraction=0.3))
    check_liars(tiny_config(byzantine__clients=1, federation__fraction=0.1))
    with pytest.raises(FedShieldError, match=r"^byzantine\.clients = 1: byzantine\.attack = alie needs two"):
        try_out(tiny_config(**alie, byzantine__clients=1), federation=True)  # as a study does before its first run
    with pytest.raises(
        FedShieldError, match=r"^federation\.fraction = 0\.2: .* needs 3 clients a round, there are 2; raise it"
    ):
        check_liars(tiny_config(**alie, byzantine__clients=2, federation__fraction=0.2))


def test_liars_that_may_not_move_are_told(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fedshield").propagate = True
    check_liars(tiny_config(byzantine__attack="alie", byzantine__clients=3))
    assert caplog.text == ""
    check_liars(tiny_config(byzantine__attack="alie", byzantine__clients=2))
    assert (
        "byzantine.clients = 2: with byzantine.attack = alie, 2 of 10 clients of a round send the mean" in caplog.text
    )


def test_alie_with_a_part_of_the_clients_ends_no_run_whoever_is_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of ten clients four lie; a cohort of three has none of them, or all."""
    logging.getLogger("fedshield").propagate = True
    caplog.set_level(logging.INFO, "fedshield")
    config = tiny_config(
        federation__rounds=8,
        federation__fraction=0.3,
        byzantine__clients=4,
        byzantine__attack="alie",
        strategy__update_limit=0.0,
        evaluate__every=8,
        results__dir=str(tmp_path),
    )
    liars = choose_liars(10, 4, config.seed)
    cohort = Cohort(3, 3, (20,) * 10, config.seed)
    numbers = {n: len(liars.intersection(cohort.sample(n))) for n in range(1, 9)}
    assert {1, 2} <= set(numbers.values())
    run_dir = run_federation(LocalGrid(config, ByzantineExecutor(InProcess(), config)), config)
    assert len(read_metrics(run_dir)) == 8
    for n, number in numbers.items():
        alone = f"round {n}: one client lies; with byzantine.attack = alie it sends its honest"
        most = f"round {n}: {number} of 3 clients lie; byzantine.attack = alie has no limit"
        assert (alone in caplog.text, most in caplog.text) == (number == 1, number > 1)


def test_liars_are_drawn_once_for_a_run() -> None:
    assert choose_liars(10, 3, 1) == choose_liars(10, 3, 1)
    assert len(choose_liars(10, 3, 1)) == 3
    assert len({choose_liars(10, 3, seed) for seed in range(9)}) > 1


def test_every_name_has_a_lie() -> None:
    assert set(get_args(LieName)) == {*ATTACKS, *TRAINED}


def test_the_liars_of_a_federation_all_send_the_same_weights(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def heard(**changes: object) -> Overheard:
        config = tiny_config(federation__rounds=1, results__dir=str(tmp_path), **changes)
        executor = Overheard(InProcess(), config)
        executor.heard = {}
        run_federation(LocalGrid(config, executor), config)
        return executor

    honest = heard(results__name="honest")
    lying = heard(results__name="lying", byzantine__clients=2, byzantine__strength=2.0)
    assert len(lying.liars) == 2
    for name, before in lying.before.items():
        learnt = [honest.heard[client][name] for client in lying.liars]
        told = [lying.heard[client][name] for client in lying.liars]
        for client in set(range(10)) - lying.liars:
            assert torch.equal(lying.heard[client][name], honest.heard[client][name])
        if before.is_floating_point() and "running_" not in name:
            assert torch.equal(told[0], told[1])
            expected = before - 2 * (torch.stack(learnt) - before).mean(dim=0)
            assert torch.allclose(told[0], expected, atol=1e-5)
        else:
            assert all(map(torch.equal, told, learnt))


class _LastFirst:
    """Gives the replies back in the opposite order, as workers may."""

    def __init__(self) -> None:
        self._inner = InProcess()

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        yield from reversed(list(self._inner.run(jobs, timeout)))

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("attack", ["scaled", "min-max"])
def test_a_lie_has_the_same_bits_whichever_client_is_done_first(tmp_path: Path, attack: str) -> None:
    def checkpoint(executor: Executor, name: str) -> bytes:
        config = tiny_config(
            federation__rounds=1,
            byzantine__clients=4,
            byzantine__attack=attack,
            results__dir=str(tmp_path),
            results__name=name,
        )
        run_dir = run_federation(LocalGrid(config, ByzantineExecutor(executor, config)), config)
        return (run_dir / "checkpoint" / "model-0001.safetensors").read_bytes()

    assert checkpoint(InProcess(), "in order") == checkpoint(_LastFirst(), "last first")
