"""Centralized adversarial training: what it computes, which checkpoint it chooses, and how it goes on."""

import io
import json
import logging
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from common.config.schema import RunConfig
from common.data.datasets import load_data
from common.errors import FedShieldError
from common.factory import make_model, prepare_data
from common.seeding import seed_for
from server.app import run_federation
from server.evaluation import evaluate_on, evaluate_run
from server.run_directory.checkpoint import load_momenta, selected_model
from server.run_directory.index import read_checkpoint
from server.run_directory.reader import CENTRALIZED, read_kind, read_metrics
from server.run_directory.restored import stored_config
from server.run_directory.writer import RunDir
from simulations.centralized import run_centrally, train_centrally
from simulations.engine.executor import InProcess
from simulations.engine.local_grid import LocalGrid
from simulations.terminal.console import Terminal, log_to
from tests.helpers.program import PROGRAM, invoke, tiny_options
from tests.helpers.runs import same, weights
from tests.helpers.settings import tiny_config

HELD_OUT = {"data__validation_fraction": 0.2}  # 40 of 200 images


def config(tmp_path: Path, name: str, **changes: object) -> RunConfig:
    given = {"centralized__epochs": 3, "evaluate__final_attacks": "fgsm", **changes}
    return tiny_config(results__dir=str(tmp_path), results__name=name, **given)


def summary(path: Path) -> dict:
    return json.loads((path / "summary.json").read_text())


def momenta(path: Path) -> list[torch.Tensor]:
    checkpoint = read_checkpoint(path)
    assert checkpoint is not None
    return load_momenta(path, checkpoint)


def assert_same_run(first: Path, second: Path) -> None:
    """Everything but the times."""
    assert same(weights(first), weights(second))
    pairs = list(zip(momenta(first), momenta(second), strict=True))
    assert pairs
    assert all(torch.equal(one, other) for one, other in pairs)
    assert read_checkpoint(first) == read_checkpoint(second)
    for one, other in zip(read_metrics(first), read_metrics(second), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert {**summary(first), "seconds": 0} == {**summary(second), "seconds": 0}


def test_epochs_are_sgd_over_all_images_with_momentum_kept(tmp_path: Path) -> None:
    plain = {"attack__name": "none", "loss__name": "pgd-at", "train__augment": False, "train__label_smoothing": 0.0}
    settings = config(tmp_path, "run", centralized__epochs=2, evaluate__every=9, train__milestones="1", **plain)
    path = train_centrally(settings)
    splits, division = prepare_data(settings)
    rows = np.sort(np.concatenate([*division.shards, division.pool]))  # what the federation would divide
    model = make_model(settings, 10).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.08, momentum=0.9, weight_decay=2e-4)
    for epoch in (1, 2):
        generator = torch.Generator().manual_seed(seed_for(seed_for(1, "train", epoch, 0), "order"))
        for batch in torch.randperm(200, generator=generator).split(16):
            chosen = rows[batch.numpy()]
            optimizer.zero_grad()
            inputs = torch.tensor(splits.train.images[chosen]).float() / 255
            F.cross_entropy(model(inputs), torch.tensor(splits.train.labels[chosen])).backward()
            optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.008
    assert same(weights(path), model.state_dict())
    buffers = [optimizer.state[weight]["momentum_buffer"] for weight in model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(momenta(path), buffers, strict=True))


def test_one_epoch_is_one_round_of_a_federation_of_one(tmp_path: Path) -> None:
    alone = {"federation__clients": 1, "partition__scheme": "iid", "sharing__fraction": 0.0}
    settings = config(
        tmp_path, "one", centralized__epochs=1, federation__rounds=1, sharing__pool_fraction=0.0, **alone, **HELD_OUT
    )
    centralized = train_centrally(settings)
    other = config(tmp_path, "other", federation__rounds=1, sharing__pool_fraction=0.0, **alone, **HELD_OUT)
    federated = run_federation(LocalGrid(other, InProcess()), other)
    assert same(weights(centralized), weights(federated))
    first, second = read_metrics(centralized)[0], read_metrics(federated)[0]
    assert (first["evaluation"], first["validation"]) == (second["evaluation"], second["validation"])


def test_a_run_leaves_everything_a_reader_needs(tmp_path: Path) -> None:
    settings = config(tmp_path, "run", evaluate__every=2, train__schedule="cosine", **HELD_OUT)
    path = train_centrally(settings)
    lines = read_metrics(path)
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert [line["learning-rate"] for line in lines] == pytest.approx([0.08, 0.06, 0.02])
    assert [line["evaluation"] is None for line in lines] == [True, False, False]
    assert [line["validation"] is None for line in lines] == [True, False, False]
    assert lines[1]["validation"]["n"] == 40
    assert set(lines[1]["validation"]["robust"]) == {"fgsm", "pgd-2"}
    assert read_kind(path) == CENTRALIZED
    described = json.loads((path / "partition.json").read_text())
    assert described["clients"] == [[16] * 10]
    assert described["validation"] == [4] * 10
    assert described["pool"] == described["shared"] == [0] * 10
    # The figures on the validation images, worked out again from the kept model and the images themselves.
    number, state = selected_model(path)
    splits, division = prepare_data(settings, centralized=True)
    model = make_model(settings, 10)
    model.load_state_dict(state)
    again = evaluate_on(model, splits.train.take(division.validation), settings, ("fgsm", "pgd-2"), 40)
    assert lines[number - 1]["validation"] == again.as_json()
    best = max(lines[1:], key=lambda line: [line["validation"][name]["value"] for name in ("worst", "natural")])
    assert number == best["round"]
    assert summary(path)["evaluated-round"] == number
    assert summary(path)["selected-by"] == "validation"
    final = evaluate_on(model, splits.test, settings, ("fgsm",), 40)
    assert summary(path)["final"]["worst"]["value"] == final.values()["worst"]


def test_without_a_split_the_last_epoch_counts(tmp_path: Path) -> None:
    path = train_centrally(config(tmp_path, "run", centralized__epochs=2))
    assert all("validation" not in line for line in read_metrics(path))
    assert summary(path)["evaluated-round"] == 2
    assert summary(path)["selected-by"] == "last round"
    assert "validation" not in json.loads((path / "partition.json").read_text())
    assert same(selected_model(path)[1], weights(path))


@pytest.mark.parametrize("stop", [(1, 160), (3, 32), (4, 160)], ids=["first", "third", "last"])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path: Path, stop: tuple[int, int]) -> None:
    changes = {"centralized__epochs": 4, "train__schedule": "cyclic", "train__warmup": 2, **HELD_OUT}
    whole = train_centrally(config(tmp_path, "whole", **changes))

    def interrupt(epoch: int, images: int, seen: int) -> None:
        assert images == 160
        if (epoch, seen) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_centrally(config(tmp_path, "part", **changes), interrupt)
    part = tmp_path / "part"
    assert len(read_metrics(part)) == stop[0] - 1
    assert train_centrally(config(tmp_path, "ignored", results__resume=str(part), **changes)) == part
    assert_same_run(part, whole)


def test_a_finished_run_made_longer_equals_a_long_one(tmp_path: Path) -> None:
    changes = {"train__milestones": "2", **HELD_OUT}
    short = train_centrally(config(tmp_path, "short", centralized__epochs=2, **changes))
    train_centrally(config(tmp_path, "", centralized__epochs=3, results__resume=str(short), **changes))
    assert_same_run(short, train_centrally(config(tmp_path, "long", centralized__epochs=3, **changes)))


def as_folder(root: Path, labels: np.ndarray) -> Path:
    """Write 150 training images and 60 test images, the latter in the folders of ``labels``."""
    splits = load_data("shapes10", "", 32)
    parts = (("train", splits.train, splits.train.labels[:150]), ("test", splits.test, labels))
    for part, data, given in parts:
        for row, label in enumerate(given):
            folder = root / part / data.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.images[row].transpose(1, 2, 0)).save(folder / f"{row}.png")
    return root


def test_the_test_set_has_no_say_in_which_checkpoint_is_chosen(tmp_path: Path) -> None:
    truth = load_data("shapes10", "", 32).test.labels[:60]
    chosen, by_test, models = [], [], []
    for name, labels in (("true", truth), ("shifted", (truth + 1) % 10), ("far", (truth + 5) % 10)):
        root = as_folder(tmp_path / f"data-{name}", labels)
        changes = {"data__name": "folder", "data__root": str(root), "data__validation_fraction": 0.3}
        path = train_centrally(
            config(tmp_path, name, centralized__epochs=6, data__max_examples=0, evaluate__examples=0, **changes)
        )
        lines = read_metrics(path)
        chosen.append([summary(path)["evaluated-round"], [line["validation"] for line in lines]])
        by_test.append(max(lines, key=lambda line: line["evaluation"]["worst"]["value"])["round"])
        models.append(selected_model(path)[1])
    assert chosen[0] == chosen[1] == chosen[2]
    assert same(models[0], models[1])
    assert same(models[0], models[2])
    # It would have been another one by the test set, and not always the same.
    assert len({chosen[0][0], *by_test}) > 1


def test_what_it_does_not_use_cannot_stop_it(tmp_path: Path) -> None:
    # Three classes are too few for the default partition, which is for ten.
    splits = load_data("shapes10", "", 32)
    for part, data in (("train", splits.train), ("test", splits.test)):
        for row in np.flatnonzero(data.labels < 3)[:30]:
            folder = tmp_path / "data" / part / data.classes[data.labels[row]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.images[row].transpose(1, 2, 0)).save(folder / f"{row}.png")
    data = {"data__name": "folder", "data__root": str(tmp_path / "data")}
    path = train_centrally(config(tmp_path, "run", centralized__epochs=1, **data))
    assert sum(json.loads((path / "partition.json").read_text())["clients"][0]) == 30
    assert evaluate_run(path, {"evaluate.final-examples": 10}).evaluation.n == 10


def test_training_that_diverges_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match=r"^epoch [12]: the training loss is (nan|inf); start a new run"):
        train_centrally(config(tmp_path, "run", train__learning_rate=1e20))


def test_a_finished_run_that_is_resumed_is_given_what_is_missing(tmp_path: Path) -> None:
    console = Terminal(file=io.StringIO(), width=500)
    log_to(console)
    path = run_centrally(config(tmp_path, "run"), console)
    again = config(tmp_path, "run", results__resume=str(path))
    files = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    (path / "figures" / "accuracy.png").unlink()
    assert run_centrally(again, console) == path
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == files
    assert run_centrally(again, console) == path
    lines = console.file.getvalue().splitlines()
    assert sum(line.startswith("epoch") for line in lines) == 3
    assert sum(line.startswith("All 3 epochs are done; raise centralized.epochs") for line in lines) == 2
    assert lines.count("Missing figures drawn: figures/accuracy.png") == 1
    assert lines[-1] == "Nothing is missing."


def test_momenta_of_another_network_are_one_line(tmp_path: Path) -> None:
    path = train_centrally(config(tmp_path, "run", centralized__epochs=1))
    file = path / "checkpoint" / "checkpoint.json"
    checkpoint = json.loads(file.read_text())
    for optimizer in ({"file": checkpoint["model"], "sha256": checkpoint["sha256"]}, None):
        file.write_text(json.dumps({**checkpoint, "optimizer": optimizer}))
        with pytest.raises(FedShieldError, match=r"damaged \(no momentum '0'\)|has no momentum that fits its model"):
            train_centrally(config(tmp_path, "", centralized__epochs=2, results__resume=str(path)))


EPOCHS = 10  # enough that a signal sent after the second one arrives before the last


def test_training_that_diverges_is_not_to_be_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fedshield").propagate = True
    settings = {"results__dir": str(tmp_path), "results__name": "run", "train__warmup": 2}
    with pytest.raises(FedShieldError, match=r"the training loss is (nan|inf); start a new run with a lower"):
        train_centrally(tiny_config(centralized__epochs=2, train__learning_rate=1e30, **settings))
    assert "Stopped before the end of epoch 1; fix the cause and start again in the same way" in caplog.text
    assert "--resume" not in caplog.text


def test_a_federation_in_a_directory_of_a_centralized_run_is_sent_to_the_right_command(tmp_path: Path) -> None:
    settings = {"results__dir": str(tmp_path), "results__name": "run"}
    path = train_centrally(tiny_config(centralized__epochs=1, evaluate__final_attacks="", **settings))
    with pytest.raises(FedShieldError, match=f"or continue it with: fedshield centralized --resume {path}"):
        RunDir.open(tiny_config(**settings))


@pytest.mark.parametrize("blow", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_command_that_is_stopped_from_outside_resumes_to_the_same_bits(tmp_path: Path, blow: signal.Signals) -> None:
    part = tmp_path / "part"
    options = tiny_options(centralized__epochs=EPOCHS, **{"data__validation-fraction": 0.2})
    command = [PROGRAM, "centralized", *options, "--results", str(tmp_path), "--name", "part"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert next(process.stdout).startswith(
        "Images: training 200 of 4,000 (data.max-examples), validation all 40, test "
    )
    assert next(process.stdout) == f"Run directory: {part}\n"
    for line in process.stdout:
        if line.startswith(f"epoch 2/{EPOCHS}"):
            process.send_signal(blow)
            break
    rest, complaint = process.communicate(timeout=120)
    done = len(read_metrics(part))
    assert 2 <= done < EPOCHS
    if blow is signal.SIGINT:
        assert process.returncode == 130
        assert f"Stopped after epoch {done}; continue with: fedshield centralized --resume {part}\n" in rest
        assert complaint == "fedshield: interrupted\n"
        other = invoke("run", "--resume", str(part))
        assert other.returncode == 1
        expected = f"fedshield: {part}: belongs to fedshield centralized; continue it with: fedshield centralized "
        assert other.stderr == f"{expected}--resume {part}\n"
        assert_the_command_finishes(part, done)
    else:
        train_centrally(stored_config(part, {"results.resume": str(part)}, "test"))
    whole = train_centrally(stored_config(part, {"results.name": "whole", "results.resume": ""}, "test"))
    assert_same_run(part, whole)


def assert_the_command_finishes(part: Path, done: int) -> None:
    """Resume by the command; it prints a line for each epoch and draws the figures."""
    resumed = invoke("centralized", "--resume", str(part))
    assert resumed.returncode == 0, resumed.stderr
    lines = resumed.stdout.splitlines()
    assert lines[1] == lines[-1] == f"Run directory: {part}"
    epochs = [line for line in lines if line.startswith("epoch")]
    assert [line.split("  ")[0] for line in epochs] == [f"epoch {i}/{EPOCHS}" for i in range(done + 1, EPOCHS + 1)]
    assert all("pgd-2" in line and "  validation " in line and "  loss " in line for line in epochs)
    number = summary(part)["evaluated-round"]
    assert any(line.startswith(f"final  of epoch {number}  natural") for line in lines)
    for name in ("accuracy.png", "accuracy.svg", "partition.png", "partition.svg"):
        assert (part / "figures" / name).stat().st_size > 1000
