"""The lies that are made of the honest updates: by hand, and what a federation of liars sends."""

from pathlib import Path

import pytest
import torch

from server.app import run_federation
from simulations.engine.executor import InProcess
from simulations.engine.lies import ATTACKS
from simulations.engine.local_grid import LocalGrid
from tests.helpers.overheard import Overheard
from tests.helpers.settings import tiny_config

# Mean (2, 0); standard deviations √(8/3) and 0; distances 2, 2 and 4.
UPDATES = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])


def lie(name: str, strength: float = 1.0, updates: torch.Tensor = UPDATES) -> list[float]:
    told: list[float] = ATTACKS[name](updates, strength, 10, torch.Generator().manual_seed(1)).tolist()
    return told


def test_ipm_by_hand() -> None:
    assert lie("ipm", 0.5) == [-1, 0]


def test_min_max_by_hand() -> None:
    """The lie moves to the left until it is 4 from the update at 4: at 0."""
    assert lie("min-max") == pytest.approx([0, 0], abs=1e-6)
    assert lie("min-max", 2) == pytest.approx([-2, 0], abs=1e-6)
    # Mean (1, 1), deviations (1, 1): from (1, 1) to the lower left, until it is √8 from (2, 2): at (0, 0).
    assert lie("min-max", updates=torch.tensor([[0.0, 0.0], [2.0, 2.0]])) == pytest.approx([0, 0], abs=1e-6)
    # Mean (1, 0.5), deviations 1 and 0.5, which is no direction between the two: √5 from (2, 1), at its lower left.
    found = torch.tensor(lie("min-max", updates=torch.tensor([[0.0, 1.0], [2.0, 0.0]])))
    assert (found - torch.tensor([2.0, 0.0])).norm().item() == pytest.approx(5**0.5)
    assert (found - torch.tensor([0.0, 1.0])).norm().item() < 5**0.5
    assert ((torch.tensor([1.0, 0.5]) - found) / torch.tensor([1.0, 0.5])).std().item() == pytest.approx(0, abs=1e-6)


def test_min_sum_by_hand() -> None:
    """Squared distances sum to 20, 8 and 20. To the left by d: (2 + d)² + d² + (2 - d)² is 8 + 3 d² = 20 for d = 2."""
    assert lie("min-sum") == pytest.approx([0, 0], abs=1e-6)
    # Those of 0, 1 and 5 sum to 26, 17 and 41; about the mean 2 to 14, and 14 + 3 d² = 41 for d = 3.
    assert lie("min-sum", updates=torch.tensor([[0.0], [1.0], [5.0]])) == pytest.approx([-1])


@pytest.mark.parametrize("name", ["min-max", "min-sum", "mimic"])
def test_updates_that_do_not_differ_leave_no_room(name: str) -> None:
    assert lie(name, updates=torch.tensor([[1.0, 2.0], [1.0, 2.0]])) == [1, 2]
    assert lie(name, updates=torch.tensor([[1.0, 2.0]])) == [1, 2]


def test_mimic_copies_the_client_that_stands_out_most() -> None:
    """They differ most along the first value, in which 9 is furthest from the mean 3; not along the second."""
    updates = torch.tensor([[0.0, 0.0], [1.0, 1.5], [2.0, 0.0], [9.0, 0.5]])
    assert lie("mimic", updates=updates) == [9, 0.5]
    assert lie("mimic", 2, updates=updates) == [18, 1]


def test_liars_that_know_the_honest_updates_use_them_and_not_their_own(tmp_path: Path) -> None:
    config = tiny_config(
        federation__rounds=1,
        byzantine__clients=3,
        byzantine__attack="ipm",
        byzantine__strength=0.5,
        strategy__update_limit=0.0,
        evaluate__final_attacks="",
        results__dir=str(tmp_path),
    )
    executor = Overheard(InProcess(), config)
    executor.heard = {}
    run_federation(LocalGrid(config, executor), config)
    honest = [executor.heard[client] for client in sorted(set(range(10)) - executor.liars)]
    assert len(honest) == 7
    for name, before in executor.before.items():
        told = [executor.heard[client][name] for client in executor.liars]
        if before.is_floating_point() and "running_" not in name:
            expected = before - 0.5 * (torch.stack([state[name] for state in honest]) - before).mean(dim=0)
            assert all(torch.allclose(each, expected, atol=1e-5) for each in told)
