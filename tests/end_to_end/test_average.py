"""Averages over rounds: by hand, in the checkpoint, and without any effect on training."""

from pathlib import Path

import pytest
import torch

from common.config.tables import TrainConfig
from common.errors import FedShieldError
from server.average import ModelAverage
from server.run_directory.checkpoint import load_kept, selected_model
from server.run_directory.index import UNAVERAGED, read_checkpoint
from simulations.centralized import train_centrally
from tests.helpers.runs import figures, run, run_in_parts, same, weights
from tests.helpers.settings import tiny_config


def settings(**changes: object) -> TrainConfig:
    return tiny_config(**{f"train__{key}": value for key, value in changes.items()}).train


def averages(train: TrainConfig, models: list[float], number: int = 0, before: float | None = None) -> list[object]:
    kept = None if before is None else {"w": torch.tensor(before), "n": torch.tensor(number)}
    average, found = ModelAverage(train, number, kept), list[object]()
    for place, model in enumerate(models, start=number + 1):
        state = average.after(place, {"w": torch.tensor(model), "n": torch.tensor(place)})
        found.append(state and state["w"].item())
        assert state is None or state["n"].item() == place  # a counter is the last model's
    return found


def test_averages_by_hand() -> None:
    # ema, d = 3/4: 8; 6 + 0; 4.5 + 1. swa from round 2: -, 4, (4 + 0) / 2, (4 + 0 + 2) / 3.
    assert averages(settings(average="ema", average_decay=0.75), [8.0, 0.0, 4.0]) == [8.0, 6.0, 5.5]
    swa = settings(average="swa", average_start=2)
    assert averages(swa, [8.0, 4.0, 0.0, 2.0]) == [None, 4.0, 2.0, 2.0]
    assert averages(swa, [2.0], number=3, before=2.0) == [2.0]  # resumed after round 3
    assert averages(swa, [4.0], number=1, before=8.0) == [4.0]  # no round before counted
    assert averages(settings(), [8.0]) == [None]


LONG = {"federation__rounds": 3, "federation__fraction": 0.3, "data__validation_fraction": 0.1}
SWA = {**LONG, "train__average": "swa", "train__average_start": 2}


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("averaged"), "swa", **SWA)


def unaveraged(path: Path) -> dict[str, torch.Tensor]:
    return load_kept(path, read_checkpoint(path) or {}, UNAVERAGED)


def test_training_goes_on_from_the_model_and_the_average_is_evaluated(tmp_path: Path, averaged: Path) -> None:
    plain = run(tmp_path, "plain", **LONG)
    assert same(unaveraged(averaged), weights(plain))
    assert [line[1] for line in figures(averaged)] == [line[1] for line in figures(plain)]  # the losses in training
    assert not same(weights(averaged), weights(plain))
    second = run(tmp_path, "second", **{**LONG, "federation__rounds": 2})
    expected = {
        name: torch.lerp(weights(second)[name], now, 0.5) if now.is_floating_point() else now
        for name, now in weights(plain).items()
    }
    assert same(weights(averaged), expected)
    number, chosen = selected_model(averaged)  # the best by validation images is an average too
    assert same(
        chosen,
        [weights(run(tmp_path, "first", **{**LONG, "federation__rounds": 1})), weights(second), expected][number - 1],
    )


def test_an_interrupted_run_has_the_same_average(tmp_path: Path, averaged: Path) -> None:
    part = run_in_parts(tmp_path, lambda reply: reply.server_round == 3, **SWA)
    assert same(weights(part), weights(averaged))
    assert same(unaveraged(part), unaveraged(averaged))
    assert figures(part) == figures(averaged)


def test_epochs_of_centralized_training_are_averaged_too(tmp_path: Path) -> None:
    changes = {"centralized__epochs": 2, "results__dir": str(tmp_path)}
    plain = train_centrally(tiny_config(results__name="plain", **changes))
    path = train_centrally(tiny_config(results__name="ema", train__average="ema", **changes))
    assert same(unaveraged(path), weights(plain))
    assert not same(weights(path), weights(plain))


def test_an_average_of_no_round_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match=r"train.average-start = 4: train.average = swa would have no model"):
        run(tmp_path, "none", **{**SWA, "train__average_start": 4})
