"""Transfer attacks between two real runs: what is measured, kept, told and refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from common import factory
from common.data.draws import balanced_subset
from common.errors import FedShieldError
from server.evaluation import evaluate_run
from server.run_directory.checkpoint import fit_state, selected_model
from server.run_directory.reader import read_evaluations, read_predictions, read_summary
from server.run_directory.restored import stored_config
from simulations.export.formats import export_run
from simulations.reports.headline import read_figures
from simulations.reports.html.write import write_report
from simulations.transfer import transfer
from tests.helpers.program import invoke
from tests.helpers.runs import run

pytestmark = pytest.mark.usefixtures("one_thread")

FGSM = {"evaluate.final-attacks": "fgsm"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that differ in seed and width."""
    folder = tmp_path_factory.mktemp("trained")
    for name, changes in {"one": {}, "two": {"seed": 2, "model__width": 3}}.items():
        run(folder, name, train__learning_rate=0.1, attack__name="none", **changes)
    return folder


@pytest.fixture
def pair(trained: Path, tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "one", tmp_path / "two"


def model_of(run_dir: Path) -> nn.Module:
    model = factory.make_model(stored_config(run_dir, {}, "test"), 10).eval()
    fit_state(model, selected_model(run_dir)[1], run_dir)
    return model


def by_hand(attacked: Path, made_on: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the true classes and what a model takes 40 images for after a step of FGSM on another one."""
    test = factory.test_data(stored_config(attacked, {}, "test"))
    rows = balanced_subset(test.labels, 40, 0, "evaluation")
    labels = torch.from_numpy(test.labels[rows])
    inputs = torch.from_numpy(test.images[rows]).float() / 255
    model, other = model_of(attacked), model_of(made_on)
    with torch.no_grad():
        found = model(inputs).argmax(1)
    right = found == labels
    moving = inputs[right].clone().requires_grad_()
    gradient = torch.autograd.grad(F.cross_entropy(other(moving), labels[right]), moving)[0]
    with torch.no_grad():
        found[right] = model((inputs[right] + 8 / 255 * gradient.sign()).clamp(0, 1)).argmax(1)
    return labels.numpy(), found.numpy()


def test_examples_of_another_run_are_tried_kept_and_told(pair: tuple[Path, Path]) -> None:
    one, two = pair
    labels, predicted = by_hand(one, two)
    found = evaluate_run(one, FGSM, made_on=[two])
    assert np.array_equal(found.evaluation.labels, labels)
    assert np.array_equal(found.evaluation.predictions["fgsm from two"], predicted)
    assert list(found.record["robust"]) == ["fgsm from two", "fgsm"]
    digest = json.loads((two / "checkpoint" / "checkpoint.json").read_text())["sha256"]
    (line,) = read_evaluations(one)
    assert line["from"] == [{"name": "two", "round": 2, "sha256": digest}]
    # The headline: what neither the final pgd-3, nor fgsm, nor an example of the other model breaks.
    final = read_predictions(one, read_summary(one)["final"])
    own = read_predictions(one, line)
    assert own["attacks"].tolist() == ["natural", "fgsm from two", "fgsm"]
    left = np.logical_and.reduce([*(final["predictions"] == labels), *(own["predictions"] == labels)])
    figures = read_figures(one)
    assert figures["worst"]["value"] == left.sum() / 40
    assert set(figures["robust"]) == {"fgsm from two", "fgsm", "pgd-3"}
    told = f"from two: the examples were made on the model of that run (SHA-256 {digest[:12]}"
    report, card = write_report(one).read_text(), export_run(one, "safetensors")[1].read_text()
    assert "<td>fgsm from two</td>" in report
    assert "| fgsm from two |" in card
    assert "White-box attacks, and examples made on other models, within 8/255" in card
    assert told in report
    assert told in card


def test_an_evaluation_goes_on_and_another_model_has_its_own_results(pair: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = pair
    three = shutil.copytree(two, tmp_path / "three")
    evaluate_run(one, FGSM, made_on=[two])
    kept = {path: path.stat().st_mtime_ns for path in one.glob("evaluations/*/*.npz")}
    more = {"evaluate.final-attacks": "fgsm,pgd-2x2"}
    found = evaluate_run(one, more, made_on=[two, three])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    first, second = (found.evaluation.predictions[f"pgd-2x2 from {name}"] for name in ("two", "three"))
    assert np.array_equal(first, second)  # the same model under another name: nothing was attacked for it
    assert found.record["robust"]["fgsm from two"] == read_evaluations(one)[0]["robust"]["fgsm from two"]
    shutil.rmtree(one / "evaluations")
    again = evaluate_run(one, more, made_on=[two])
    assert np.array_equal(again.evaluation.predictions["pgd-2x2 from two"], first)


def test_the_matrix_has_a_row_for_each_that_makes_and_a_column_for_each_that_is_attacked(
    pair: tuple[Path, Path],
) -> None:
    sheet = transfer(pair, "fgsm", {"evaluate.final-examples": 40})
    assert sheet.header == ["made on", "one", "two"]
    assert [row[0] for row in sheet.rows] == ["no attack", "one", "two", "all of these"]
    for column, (attacked, other) in enumerate([pair, pair[::-1]], 1):
        labels, predicted = by_hand(attacked, other)
        cells = {row[0]: float(row[column].split()[0]) for row in sheet.rows}
        assert cells[other.name] == pytest.approx(100 * np.mean(predicted == labels), abs=0.05)
        labels, predicted = by_hand(attacked, attacked)
        assert cells[attacked.name] == pytest.approx(100 * np.mean(predicted == labels), abs=0.05)
        assert cells["all of these"] <= min(cells.values())
        (line,) = read_evaluations(attacked)
        assert list(line["robust"]) == [f"fgsm from {other.name}", "fgsm"]
    assert sheet.title == "Accuracy in % under fgsm, epsilon 8/255 (Linf), n = 40 of 1,000 test images"
    with pytest.raises(FedShieldError, match="transfer: 1 run given; name two or more"):
        transfer(pair[:1], "fgsm", {})


def test_the_commands(pair: tuple[Path, Path], tmp_path: Path) -> None:
    how = "--examples", "20"
    done = invoke("evaluate", "one", "--attacks", "pgd-2,deepfool", "--from", "two", *how, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "deepfool: on the attacked model alone, since it has no budget" in done.stdout
    assert "making examples on the model of two" in done.stdout
    assert "pgd-2 from two" in done.stdout
    assert "from two: the examples were made on the model of that run (SHA-256 " in done.stdout
    done = invoke("transfer", "one", "two", "--attack", "pgd-2", *how, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Accuracy in % under pgd-2, epsilon 8/255 (Linf), n = 20 of 1,000 test images" in done.stdout
    assert "chance: 10.0 %" in done.stdout
    done = invoke("evaluate", "one", "--from", "one", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "one: named twice; examples are made on other runs than the one that is attacked" in done.stderr


def config(name: str, value: object) -> Callable[[Path], None]:
    """Change a key of a run's configuration."""

    def change(run_dir: Path) -> None:
        stored = json.loads((run_dir / "config.json").read_text())
        table, _, key = name.partition(".")
        stored[table][key] = value
        (run_dir / "config.json").write_text(json.dumps(stored))

    return change


def partition(name: str, change: Callable[[list], list]) -> Callable[[Path], None]:
    def apply(run_dir: Path) -> None:
        described = json.loads((run_dir / "partition.json").read_text())
        described[name] = change(described[name])
        (run_dir / "partition.json").write_text(json.dumps(described))

    return apply


def larger_images(run_dir: Path) -> None:
    config("data.name", "folder")(run_dir)
    config("data.image-size", 64)(run_dir)


def without_rounds(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoint")
    (run_dir / "metrics.jsonl").write_text("")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (config("attack.epsilon-255", 4.0), r"two: its attack\.epsilon-255 is 4\.0, and that of .*/one is 8\.0; "),
        (config("data.name", "cifar10"), r"two: its data\.name is cifar10, and that of .*/one is shapes10; "),
        (partition("classes", lambda names: names[::-1]), r"two: its class 0 is \w+, and that of .*/one is \w+; "),
        (partition("test", lambda counts: [9] * 10), r"two: its number of test images is 90, and that .* is 1000; "),
        (partition("test", lambda counts: [1, 199, *counts[2:]]), r"two: its number of test images of each class is "),
        (larger_images, r"two: its image size is 64 pixels, and that of .*/one is 32 pixels; "),
        (without_rounds, r"two: has no checkpoint; no round of this run was finished"),
    ],
)
def test_runs_that_do_not_fit_are_refused_in_one_line(
    pair: tuple[Path, Path], change: Callable[[Path], None], told: str
) -> None:
    one, two = pair
    change(two)
    with pytest.raises(FedShieldError, match=told) as error:
        evaluate_run(one, FGSM, made_on=[two])
    assert "\n" not in str(error.value)
    assert not read_evaluations(one)


def test_without_a_budget_there_is_nothing_to_try(pair: tuple[Path, Path]) -> None:
    one, two = pair
    with pytest.raises(FedShieldError, match="deepfool: has no budget, so there are no examples to try on"):
        evaluate_run(one, {"evaluate.final-attacks": "deepfool"}, made_on=[two])


def test_two_runs_of_the_same_model_are_told(pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    one, two = pair
    same = shutil.copytree(one, one.with_name("same"))
    evaluate_run(one, FGSM, made_on=[two])
    assert not [line for line in caplog.messages if "same model" in line]
    evaluate_run(one, FGSM, made_on=[two, same])
    assert [line for line in caplog.messages if "same model" in line] == [
        "warning: one and same have the same model: what is made on one is made on the other, so this is no transfer "
        "attack"
    ]
