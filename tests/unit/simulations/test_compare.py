"""Runs compared: what differs, and by how much on the same images."""

import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.errors import FedShieldError
from server.evaluation import evaluate_run
from server.run_directory.reader import read_metrics
from simulations.centralized import train_centrally
from simulations.export.formats import export_run
from simulations.reports.compare import compare_runs
from simulations.reports.headline import read_figures
from simulations.reports.html.write import write_report
from tests.helpers.images import make_folder
from tests.helpers.program import invoke
from tests.helpers.runs import run
from tests.helpers.settings import tiny_config


def test_tables_tell_what_differs_and_pair_the_images(tmp_path: Path) -> None:
    runs = run(tmp_path, "one"), run(tmp_path, "two", seed=2, model__width=3)
    done, results, pairs = compare_runs(runs)
    differing = {row[0]: row[1:] for row in done.rows}
    assert differing["seed"] == ["1", "2"]
    assert differing["model.width"] == ["2", "3"]
    assert not {"results.name", "federation.clients", "rounds done", "finished"} & set(differing)
    finals = [json.loads((path / "summary.json").read_text())["final"] for path in runs]
    for row, final in zip(results.rows, finals, strict=True):
        assert row[1] == "40 of 1,000"
        assert row[2].startswith(f"{100 * final['natural']['value']:.1f} [")
        assert row[-1].startswith(f"{100 * final['worst']['value']:.1f} [")
    change = 100 * (finals[1]["worst"]["value"] - finals[0]["worst"]["value"])
    assert pairs.header == ["run", "n", "natural", "pgd-3", "worst"]
    assert [row[0] for row in pairs.rows] == ["two"]
    assert float(pairs.rows[0][-1].split()[0]) == pytest.approx(change, abs=0.05)


def test_an_unfinished_run_is_compared_by_what_it_has(tmp_path: Path) -> None:
    one = run(tmp_path, "one")
    half = shutil.copytree(one, tmp_path / "half")
    (half / "summary.json").unlink()
    done, results, pairs = compare_runs([one, half])  # the predictions that half still has are of an earlier end
    assert not pairs.rows
    assert pairs.notes == ["half: none, because half has no predictions; fedshield evaluate stores them"]
    assert ["finished", "True", "False"] in [list(row) for row in done.rows]
    last = read_metrics(half)[-1]["evaluation"]
    assert results.rows[1][2].startswith(f"{100 * last['natural']['value']:.1f} [")
    assert results.header == ["run", "n", "natural %", "pgd-3 %", "fgsm %", "pgd-2 %", "worst %"]
    assert results.rows[0][4:6] == ["–", "–"]


def test_image_by_image_only_where_the_images_are_the_same(tmp_path: Path) -> None:
    def trained(name: str, root: Path) -> Path:
        changes = {"data__name": "folder", "data__root": str(root), "data__image_size": 32, "centralized__epochs": 1}
        return train_centrally(tiny_config(results__dir=str(tmp_path / "runs"), results__name=name, **changes))

    pets = make_folder(tmp_path / "pets", 32)
    same = shutil.copytree(pets, tmp_path / "same")
    other = shutil.copytree(pets, tmp_path / "other")
    (other / "test" / "cat" / "0.png").write_bytes((pets / "test" / "dog" / "0.png").read_bytes())
    runs = [trained(name, root) for name, root in (("pets", pets), ("same", same), ("other", other))]
    done, _, pairs = compare_runs(runs)
    assert ["data.root", str(pets), str(same), str(other)] in [list(row) for row in done.rows]
    assert [row[0] for row in pairs.rows] == ["same"]
    assert pairs.notes[1:] == ["other: none, because it was measured on other test images than pets"]


def test_what_was_measured_of_an_earlier_end_is_not_that_of_an_unfinished_run(tmp_path: Path) -> None:
    one = run(tmp_path, "one")
    (one / "summary.json").unlink()
    last = read_metrics(one)[-1]["evaluation"]
    earlier = {**last, "n": 7, "round": 1}
    (one / "evaluations.jsonl").write_text(json.dumps(earlier) + "\n")
    assert read_figures(one) == {**last, "round": 2}
    (one / "evaluations.jsonl").write_text(json.dumps({**earlier, "round": 2}) + "\n")
    assert read_figures(one) == {**earlier, "round": 2}


def test_a_smaller_evaluation_does_not_take_the_place_of_a_fuller_one(tmp_path: Path) -> None:
    one = run(tmp_path, "one")
    evaluate_run(one, {"evaluate.final-attacks": "", "evaluate.final-examples": 60})
    evaluate_run(one, {"evaluate.final-attacks": "pgd-3,deepfool", "evaluate.final-examples": 20}, (0, 4))
    final = json.loads((one / "summary.json").read_text())["final"]
    found = read_figures(one)
    assert (found["n"], found["robust"], found["worst"]) == (40, final["robust"], final["worst"])
    assert [point["epsilon-255"] for point in found["curve"]] == [0, 4]
    assert (found["curve-n"], found["distortions-n"], list(found["distortions"])) == (20, 20, ["deepfool"])
    report, card = write_report(one).read_text(), export_run(one, "safetensors")[1].read_text()
    (other,) = found["others"]
    row = rf"<td[^>]*>pgd-3</td>\s*<td[^>]*>20</td>\s*<td[^>]*>{100 * other['worst']['value']:.1f} %</td>"
    assert re.search(row, report)
    assert "of n = 40 are classified correctly" in report  # the predictions that are drawn are of the headline's images
    assert "## Accuracy on n = 40 of 1,000 test images" in card
    assert compare_runs([one, shutil.copytree(one, tmp_path / "again")])[1].rows[0][1] == "40 of 1,000"
    evaluate_run(one, {"evaluate.final-attacks": "fgsm,pgd-2", "evaluate.final-examples": 40})  # of the same images
    assert set(read_figures(one)["robust"]) == {"fgsm", "pgd-2", "pgd-3"}
    assert read_figures(one)["worst"]["value"] <= final["worst"]["value"]


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_predictions_are_left_out_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    one = run(tmp_path, "one")
    two = shutil.copytree(one, tmp_path / "two")
    (path,) = (two / "evaluations").glob("predictions-*.npz")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:  # of a version that knew no classes
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name != "classes"}
        np.savez_compressed(path, allow_pickle=False, **arrays)
    logging.getLogger("fedshield").propagate = True
    with caplog.at_level(logging.INFO):
        _, results, pairs = compare_runs([one, two])
    assert not pairs.rows
    assert f"{path}: damaged; its images are left out; fedshield evaluate {two} stores them again" in caplog.text
    assert results.rows[0][1:] == results.rows[1][1:]
    assert "Adversarial examples" not in write_report(two).read_text()
    evaluate_run(two, {})
    assert compare_runs([one, two])[2].rows


def test_each_kind_of_run_tells_what_it_has_done(tmp_path: Path) -> None:
    one = run(tmp_path, "one")
    other = shutil.copytree(one, tmp_path / "other")
    told = json.loads((one / "environment.json").read_text())
    (other / "environment.json").write_text(json.dumps({**told, "kind": "centralized"}))
    rows = [list(row) for row in compare_runs([one, other])[0].rows]
    assert ["rounds done", "2", "–"] in rows
    assert ["epochs done", "–", "2"] in rows


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match="is named twice; name two runs or more"):
        compare_runs([tmp_path, tmp_path])
    with pytest.raises(FedShieldError, match="compare: 1 run given; name two or more"):
        compare_runs([tmp_path])
    done = invoke("compare", str(tmp_path / "no"), str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr == f"fedshield: {tmp_path / 'no'}/config.json: not found; is this a run directory?\n"
