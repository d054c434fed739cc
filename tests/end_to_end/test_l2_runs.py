"""Runs within an L2 ball: trained, measured, shown and compared, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from common.errors import FedShieldError
from server.evaluation import evaluate_run
from server.run_directory.reader import read_config, read_evaluations, read_predictions
from simulations.export.formats import export_run
from simulations.reports.compare import compare_runs
from simulations.reports.headline import read_figures
from simulations.reports.html.write import write_report
from simulations.transfer import transfer
from tests.helpers.program import invoke, tiny_options
from tests.helpers.runs import run, same, weights

pytestmark = pytest.mark.usefixtures("one_thread")

L2 = {"attack__norm": "l2", "attack__epsilon-255": 127.5, "attack__step-255": 128.0, "evaluate__step-255": 64.0}
MEASURED = {"attack.norm": "l2", "attack.epsilon-255": 127.5, "evaluate.step-255": 64.0}
LABEL = "0.5 (L2; 127.5/255)"
CORNERS = """
def corners(model, threat, classes):
    return lambda images, labels: (images + threat.epsilon * (2 * (images < 0.5) - 1)).clamp(0, 1)
"""
PGD = {"evaluate.final-attacks": "pgd-2"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that differ in the threat alone."""
    folder = tmp_path_factory.mktemp("trained")
    for name, changes in {"linf": {}, "l2": L2}.items():
        run(folder, name, train__learning_rate=0.1, **changes)
    return folder


@pytest.fixture
def pair(trained: Path, tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "linf", tmp_path / "l2"


def test_the_norm_is_trained_with_measured_and_told_everywhere(pair: tuple[Path, Path]) -> None:
    linf, l2 = pair
    assert not same(weights(linf), weights(l2))
    done = invoke("evaluate", str(l2), "--attacks", "pgd-2,deepfool", "--examples", "40", "--epsilons", "0,127.5,4000")
    assert done.returncode == 0, done.stderr
    assert f"epsilon {LABEL}" in done.stdout
    assert "L2 epsilon × 255" in done.stdout
    (record,) = read_evaluations(l2)
    assert (record["norm"], record["epsilon-255"]) == ("l2", 127.5)
    assert [point["epsilon-255"] for point in record["curve"]] == [0, 127.5, 4000]
    assert record["curve"][0]["value"] == record["natural"]["value"]
    arrays = read_predictions(l2, record)
    changes = arrays["example_adversarial"] - arrays["example_images"] / 255
    lengths = (changes.reshape(len(changes), -1) ** 2).sum(1) ** 0.5
    assert 0.1 < lengths.max() <= 0.5 + 1e-5
    report, card = write_report(l2).read_text(), export_run(l2, "safetensors")[1].read_text()
    assert f"at epsilon {LABEL}" in report
    assert "L2 length of the change" in report
    assert f"White-box attacks within {LABEL};" in card
    assert f"against pgd at epsilon {LABEL}" in card


def test_runs_of_different_norms_have_no_common_difference_under_attack(pair: tuple[Path, Path]) -> None:
    _, results, pairs = compare_runs(pair)
    assert "linf: attacked within 8/255 (Linf)" in results.notes
    assert f"l2: attacked within {LABEL}" in results.notes
    assert pairs.header == ["run", "n", "natural"]
    assert "under attack: none, because the runs were not attacked within the same epsilon and norm" in pairs.notes


def test_a_run_is_measured_in_another_norm_beside_its_own(pair: tuple[Path, Path]) -> None:
    linf, _ = pair
    before = read_figures(linf)
    evaluate_run(linf, PGD | MEASURED)
    figures = read_figures(linf)
    (other,) = figures.pop("threats")
    assert figures == before
    assert (other["norm"], other["robust"].keys()) == ("l2", {"pgd-2"})
    told = f"within another threat, {LABEL}: pgd-2 on n = 40: "
    assert told in write_report(linf).read_text()
    assert told in export_run(linf, "safetensors")[1].read_text()
    with pytest.raises(FedShieldError, match=r"evaluate\.step-255 = 2: in L2, 2 steps"):
        evaluate_run(linf, PGD | MEASURED | {"evaluate.step-255": 2.0})
    with pytest.raises(FedShieldError, match=r"--epsilons 300: 255 is the whole range of a pixel"):
        evaluate_run(linf, PGD, epsilons=[300])


def test_a_source_of_another_norm_is_refused(pair: tuple[Path, Path]) -> None:
    linf, l2 = pair
    expected = f"{l2}: its attack.norm is l2, and that of {linf} is linf; examples can be tried only on a run of the "
    with pytest.raises(FedShieldError) as refused:
        evaluate_run(linf, PGD, made_on=[l2])
    assert str(refused.value) == f"{expected}same data, classes, image size, norm and epsilon"
    twin = shutil.copytree(linf, linf.parent / "twin")
    sheet = transfer([linf, twin], "pgd-2", MEASURED | {"evaluate.final-examples": 20})  # both in another norm
    assert f"epsilon {LABEL}" in sheet.title


def test_a_run_does_not_go_on_in_another_norm_and_one_without_the_key_is_in_linf(pair: tuple[Path, Path]) -> None:
    linf, _ = pair
    config = json.loads((linf / "config.json").read_text())
    del config["attack"]["norm"]  # as an earlier version wrote it
    (linf / "config.json").write_text(json.dumps(config))
    assert read_config(linf)["attack.norm"] == "linf"
    more = "--set", "federation.rounds=3"
    refused = invoke("run", "--resume", str(linf), *more, "--set", "attack.norm=l2")
    assert refused.returncode == 1
    assert "attack.norm = 'linf' there, 'l2' now" in refused.stderr
    done = invoke("run", "--resume", str(linf), *more, "--engine", "inprocess")
    assert done.returncode == 0, done.stderr
    assert "epsilon 8/255 (Linf)" in write_report(linf).read_text()


def test_an_attack_of_the_user_s_for_linf_is_refused_in_l2(pair: tuple[Path, Path]) -> None:
    _, l2 = pair
    code = l2.parent / "own.py"
    code.write_text(CORNERS)
    with pytest.raises(FedShieldError, match=r"own\.py:corners: an image moves by an L2 length of .* shorten what"):
        evaluate_run(l2, {"evaluate.final-attacks": f"{code}:corners"})


@pytest.mark.parametrize("key", ["attack.name", "evaluate.attacks", "evaluate.final-attacks"])
def test_such_an_attack_is_refused_before_the_first_round(tmp_path: Path, key: str) -> None:
    (tmp_path / "own.py").write_text(CORNERS)
    changes = *tiny_options(**L2), "--engine", "inprocess", "--set", f"{key}=own.py:corners"
    done = invoke("run", *changes, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "own.py:corners: an image moves by an L2 length of " in done.stderr
    assert "left out" not in done.stdout
    assert not list(tmp_path.glob("runs/*/checkpoint/*"))
