"""Clients that lie together: what they send, by hand, and what a strategy makes of it."""

from typing import get_args

import pytest
import torch

from common.config.tables import ByzantineConfig
from common.messages.records import to_state
from server.app import run_federation
from simulations.engine.byzantine import ATTACKS, ByzantineExecutor, choose_liars
from simulations.engine.executor import InProcess
from simulations.engine.local_grid import LocalGrid
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


def test_liars_are_drawn_once_for_a_run() -> None:
    assert choose_liars(10, 3, 1) == choose_liars(10, 3, 1)
    assert len(choose_liars(10, 3, 1)) == 3
    assert len({choose_liars(10, 3, seed) for seed in range(9)}) > 1


def test_every_name_has_a_lie() -> None:
    assert set(get_args(ByzantineConfig.model_fields["attack"].annotation)) == set(ATTACKS)


class Overheard(ByzantineExecutor):
    """Keeps what is sent in the first round."""

    def run(self, jobs, timeout):  # type: ignore[no-untyped-def]
        for reply, state in super().run(jobs, timeout):
            if jobs and "config" in jobs[0].message.content:
                self.before = to_state(jobs[0].message.content.array_records["arrays"])
                self.heard.setdefault(reply.metadata.src_node_id - 2, to_state(reply.content.array_records["arrays"]))
            yield reply, state


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
