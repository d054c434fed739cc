"""The warm start: the pool, the same way of training, once, before the first round."""

from pathlib import Path

import pytest

from common.config.flat import Flat
from common.errors import FedShieldError
from common.factory import make_method, make_model, make_trainer, prepare_data, server_data, training_plan
from common.seeding import seed_for
from server.warm_start import warm_start
from tests.helpers.runs import figures, run, run_in_parts, same, weights
from tests.helpers.settings import tiny_config

WARM: Flat = {"sharing__warm_start_epochs": 2}


def test_the_server_trains_as_a_client_would_on_all_of_the_pool() -> None:
    config = tiny_config(**WARM)
    splits, division = prepare_data(config)
    pool, expected = splits.train.take(division.pool), make_model(config, 10)
    assert 0 < len(division.shared) < len(division.pool)
    method = make_method(config, expected, 10)
    make_trainer(expected, config, method).fit(
        *(pool.images, pool.labels, method.loss_for(pool.labels), training_plan(config, 2, 1, 2)),
        seed_for(config.seed, "warm-start"),
    )
    model, plain = make_model(config, 10), make_model(config, 10)
    warm_start(config, model, server_data(config).pool)
    assert same(model.state_dict(), expected.state_dict())
    assert not same(model.state_dict(), plain.state_dict())
    warm_start(tiny_config(), plain, pool)  # 0 epochs
    assert same(plain.state_dict(), make_model(config, 10).state_dict())


def test_an_interrupted_run_has_one_warm_start(tmp_path: Path) -> None:
    # Without local training, the model stays as it was after the warm start.
    still = {**WARM, "train__local_epochs": 0, "sharing__fraction": 0.0, "federation__rounds": 2}
    whole, model = run(tmp_path, "whole", **still), make_model(tiny_config(), 10)
    warm_start(tiny_config(**still), model, server_data(tiny_config(**still)).pool)
    assert all(value.allclose(model.state_dict()[name]) for name, value in weights(whole).items())

    part = run_in_parts(tmp_path, lambda reply: reply.server_round == 2, **still)
    assert same(weights(part), weights(whole))
    assert figures(part) == figures(whole)


def test_without_a_pool_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match=r"^sharing.warm-start-epochs = 2: there is no pool to train on; set shar"):
        run(tmp_path, "none", sharing__pool_fraction=0.0, sharing__fraction=0.0, **WARM)
    config = tiny_config(**WARM)
    with pytest.raises(
        FedShieldError, match=r"^sharing.warm-start-epochs = 2: the server has no pool to train on; set"
    ):
        warm_start(config, make_model(config, 10), server_data(config).test.take(slice(0)))  # type: ignore[arg-type]
