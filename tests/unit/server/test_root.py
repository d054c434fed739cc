"""The server's pool as a root of trust: by hand, on real images, and in a federation with liars."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from common.errors import FedShieldError
from common.factory import make_model, server_data
from common.messages.records import to_record, to_state
from server.aggregation.root import Root
from server.aggregation.shares import greedy, trusted
from server.app import run_federation
from server.preflight import check_settings
from server.run_directory.checkpoint import selected_model
from server.run_directory.reader import CENTRALIZED, FEDERATION, read_metrics
from simulations.engine.byzantine import ByzantineExecutor
from simulations.engine.executor import InProcess
from simulations.engine.local_grid import LocalGrid
from tests.helpers.settings import tiny_config


def test_fltrust_by_hand() -> None:
    """Cosines with (2, 0): 1, 0, -1 and 0.6; (1 · 2 (1, 0) + 0.6 · 2/5 (3, 4)) / 1.6."""
    points = np.array([[1.0, 0], [0, 3], [-1, 0], [3, 4], [0, 0], [2, 0]])
    assert (trusted(points @ points.T) @ points[:-1]).tolist() == pytest.approx([1.7, 0.6])
    away = np.array([[-1.0, 0], [-2, 1], [2, 0]])
    assert trusted(away @ away.T).tolist() == [0, 0]
    idle = np.array([[1.0, 0], [2, 1], [0, 0]])
    assert trusted(idle @ idle.T).tolist() == [0, 0]


def test_fedgreed_by_hand() -> None:
    """By (v - 0.4)²: 0, 1, -1, 5 in this order; of the means 0, 0.5 and 0 the second is best."""
    values = np.array([5.0, 0, -1, 1])

    def loss(shares: NDArray[np.float64]) -> float:
        return float((shares @ values - 0.4) ** 2)

    assert greedy(loss, 4).tolist() == [0, 0.5, 0, 0.5]
    assert greedy(lambda shares: float("nan") if shares[0] else loss(shares), 4).tolist() == [0, 0.5, 0, 0.5]


def test_the_server_trains_and_measures_under_attack_on_its_pool() -> None:
    config = tiny_config(train__local_epochs=6)
    pool = server_data(config).pool
    assert len(pool.labels) == 40  # a fifth of 200 images
    root, start = Root(config, pool, torch.device("cpu")), to_record(make_model(config, 10).state_dict())
    trained = root.train(start, 1, 40)
    assert root.loss(trained) < root.loss(start)
    assert root.loss(trained) == root.loss(trained)
    again = to_state(root.train(start, 1, 100))
    assert all(torch.equal(value, again[name]) for name, value in to_state(trained).items())
    few = [root.train(start, number, 16) for number in (1, 1, 2)]  # others in each round
    lengths = [float((to_state(each)["1.weight"] - to_state(start)["1.weight"]).norm()) for each in (trained, few[0])]
    assert lengths[0] > lengths[1] > 0
    same = [all(torch.equal(value, to_state(few[0])[name]) for name, value in to_state(each).items()) for each in few]
    assert same == [True, True, False]
    gentle = Root(tiny_config(train__local_epochs=6, attack__name="none"), pool, torch.device("cpu"))
    assert root.loss(trained) > gentle.loss(trained)


@pytest.mark.parametrize("name", ["fltrust", "fedgreed"])
def test_loud_liars_leave_no_trace(tmp_path: Path, name: str) -> None:
    """With nothing but the strategy in their way, the model stays where honest ones are, and a repeated run agrees."""
    found = []
    for place in ("one", "two"):
        config = tiny_config(
            federation__rounds=1,
            byzantine__clients=3,
            byzantine__attack="gaussian",
            byzantine__strength=1000.0,
            strategy__name=name,
            strategy__update_limit=0.0,
            evaluate__final_attacks="",
            results__dir=str(tmp_path / place),
        )
        run_dir = run_federation(LocalGrid(config, ByzantineExecutor(InProcess(), config)), config)
        assert len(read_metrics(run_dir)) == 1
        found.append(selected_model(run_dir)[1])
    start = make_model(config, 10).state_dict()
    moved = max(
        float((found[0][key] - value).abs().max())
        for key, value in start.items()
        if "running" not in key and value.is_floating_point()
    )
    assert 0 < moved < 1
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_a_server_without_a_pool_is_told() -> None:
    config = tiny_config(strategy__name="fltrust", sharing__pool_fraction=0.0, sharing__fraction=0.0)
    with pytest.raises(FedShieldError, match=r"^strategy\.name = fltrust: .* set sharing\.pool-fraction above 0"):
        check_settings(config, FEDERATION)
    check_settings(config, CENTRALIZED)
    with pytest.raises(FedShieldError, match=r"^strategy\.name = fedgreed: method\.name = scaffold averages"):
        check_settings(tiny_config(strategy__name="fedgreed", method__name="scaffold"), FEDERATION)
