"""What experiment trackers, each the real one, hold of a run."""

import json
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config.schema import parse_config
from common.errors import FedShieldError
from server.monitoring.observers import Watchers
from server.run_directory.reader import read_metrics
from tests.helpers.runs import run
from tests.helpers.settings import tiny_flat, until


def expected(path: Path) -> dict[str, list[float]]:
    """The curves of a run, from its own files."""
    lines = read_metrics(path)
    curves = {
        "loss": [line["loss"] for line in lines],
        "clients/answered": [len(line["clients"]) for line in lines],
        "clients/refused": [0 for _ in lines],
        "natural-accuracy": [line["evaluation"]["natural"]["value"] for line in lines],
        "robust-accuracy/pgd-2": [line["evaluation"]["robust"]["pgd-2"]["value"] for line in lines],
        "robust-accuracy/worst": [line["evaluation"]["worst"]["value"] for line in lines],
    }
    final = json.loads((path / "summary.json").read_text())["final"]
    last = {"natural-accuracy": final["natural"], "robust-accuracy/worst": final["worst"]}
    return {**curves, **{f"final/{name}": [rate["value"]] for name, rate in last.items()}}


def begun_and_resumed(tmp_path: Path, tracker: str) -> Path:
    """A run of three rounds that was made in two goes."""
    run(tmp_path, "run", results__trackers=tracker, federation__rounds=2)
    again = {"federation__rounds": 3, "results__resume": str(tmp_path / "run")}
    return run(tmp_path, "run", results__trackers=tracker, **again)


def test_tensorboard_shows_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = begun_and_resumed(tmp_path, "tensorboard")
    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    for name, values in expected(path).items():
        points = events.Scalars(name)
        if name.startswith("final/"):  # of the first go too
            points = points[-1:]
        assert [point.value for point in points] == pytest.approx(values), name
    assert [point.step for point in events.Scalars("loss")] == [1, 2, 3]


def test_mlflow_shows_one_run_with_its_parameters_and_metrics(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    path = begun_and_resumed(tmp_path, "mlflow")
    client: Any = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedshield")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["attack.epsilon-255"] == "8.0"
    for name, values in expected(path).items():
        points = client.get_metric_history(found.info.run_id, name)
        if name.startswith("final/"):
            points = points[-1:]
        assert [point.value for point in points] == pytest.approx(values), name


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a file of W&B's: a LevelDB log of protocol buffers, after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in {1, 4}:  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def test_wandb_writes_offline_what_it_would_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    path = begun_and_resumed(tmp_path, "wandb")
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2

    def written() -> list[Any]:
        return [record for file in files for record in wandb_records(file)]

    def is_round(record: Any) -> bool:
        return any("loss" in (item.key, *item.nested_key) for item in record.history.item)

    until(lambda: sum(map(is_round, written())) == 3)  # W&B's own process may still be writing
    records = written()
    runs = [record.run for record in records if record.HasField("run")]
    assert {(found.project, found.display_name, found.run_id) for found in runs} == {
        ("fedshield", "run", json.loads((path / "trackers.json").read_text())["wandb"])
    }
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["attack.epsilon-255"] == 8.0
    steps: dict[int, dict[str, float]] = {}
    for record in records:
        if record.HasField("history"):  # W&B may cut the row of a step into several, and has rows of its own
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            steps.setdefault(row["_step"], {}).update(row)
    rows = [row for row in steps.values() if "loss" in row]
    summary = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in records
        if record.HasField("summary")
        for item in record.summary.update
    }  # the last go's: what came later has taken the place of what came before
    for name, values in expected(path).items():
        if name.startswith("final/"):
            assert summary[name] == pytest.approx(values[0]), name
        else:
            assert [row[name] for row in rows] == pytest.approx(values), name
    assert [row["_step"] for row in rows] == [1, 2, 3]


def test_wandb_without_a_key_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    wandb.teardown()  # it remembers that it was offline
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(FedShieldError, match=r"results\.trackers = wandb: No API key configured.*; fix that, or leave"):
        run(tmp_path, "run", results__trackers="wandb")


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(
        FedShieldError, match=r"results\.trackers = mlflow: .*127\.0\.0\.1.*; fix that, or leave it out"
    ):
        run(tmp_path, "run", results__trackers="mlflow")


def test_a_package_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(FedShieldError, match=r"results\.trackers = mlflow: needs mlflow; run: uv sync --extra mlflow,"):
        run(tmp_path, "run", results__trackers="mlflow")
    with pytest.raises(
        FedShieldError, match=r"results\.trackers = 'wandbb': unknown tracker wandbb; .*did you mean wandb"
    ):
        parse_config(tiny_flat(results__trackers="wandbb"))


def test_a_tracker_that_fails_later_costs_the_run_nothing(caplog: pytest.LogCaptureFixture) -> None:
    told = []

    class Broken:
        def after_round(self, record: object) -> None:
            raise ConnectionError("the server is gone\nat length")

    class Whole:
        def after_round(self, record: object) -> None:
            told.append(record)

    watchers = Watchers()
    watchers.add("broken", Broken())  # type: ignore[arg-type]
    watchers.add("whole", Whole())  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "fedshield"):
        watchers.after_round({"round": 1})
        watchers.after_round({"round": 2})
    assert told == [{"round": 1}, {"round": 2}]
    assert [record.getMessage() for record in caplog.records] == [
        "broken: the server is gone; the run continues without it"
    ]
