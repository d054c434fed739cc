"""The headline: the worst case over all kept evaluations of a model, on predictions that are counted by hand."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.datasets import Dataset
from common.evaluation.results import Evaluation
from common.evaluation.store import ArrayStore
from server.run_directory.reader import read_evaluations
from simulations.export.formats import export_run
from simulations.reports.accuracy import chance
from simulations.reports.compare import compare_runs
from simulations.reports.headline import APART, known_final, read_figures, read_headline, tell_others
from simulations.reports.html.write import write_report
from tests.helpers.program import invoke
from tests.helpers.runs import run

Left = Mapping[str, Sequence[int]]  # attack -> numbers of the images that it leaves


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A finished run of four rounds, of which nothing was measured."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "summary.json").write_text(json.dumps({"rounds": 4, "evaluated-round": 4, "final": None}))
    return tmp_path


def keep(run_dir: Path, images: Sequence[int], left: Left, names: bool = True, **record: Any) -> dict[str, Any]:
    """Keep an evaluation of images, of which an even number is of class 0; all but image 10 are right without attack.

    Args:
        run_dir: of the run.
        images: their numbers.
        left: what the attacks leave.
        names: keep them of single images, as earlier versions did not.
        record: more of its line.
    """
    labels = np.array(images) % 2
    natural = [image for image in images if image != 10]
    predictions = {
        label: np.where(np.isin(images, list(rest)), labels, 1 - labels).astype(np.int16)
        for label, rest in {"natural": natural, **left}.items()
    }
    evaluation = Evaluation(labels, predictions, 2)
    digest, shown = f"{sorted(images)}", np.zeros((0, 3, 8, 8))
    arrays = {
        "classes": np.array(["even", "odd"]),
        "images": np.array(digest),
        **({"image_ids": np.array(images, np.uint64)} if names else {}),
        **evaluation.arrays(),
        "example_images": shown.astype(np.uint8),
        "example_adversarial": shown.astype(np.float32),
        **{f"example_{name}": np.zeros(0, np.int64) for name in ("labels", "natural", "attacked")},
        "example_attack": np.array("none"),
    }
    line = {"round": 4, "classes": ["even", "odd"], **evaluation.as_json(details=True)}
    line |= {"predictions": f"predictions-{len(read_evaluations(run_dir))}", **record}
    ArrayStore(run_dir / "evaluations").save(line["predictions"], arrays)
    with (run_dir / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


ALL, SOME = range(1, 11), range(2, 7)


def shares(figures: Mapping[str, Any]) -> dict[str, float]:
    return {label: rate["value"] for label, rate in {**figures["robust"], "worst": figures["worst"]}.items()}


def test_the_strongest_on_its_own_images_and_the_fuller_below(place: Path) -> None:
    keep(place, ALL, {"pgd-20": [1, 2, 3, 4, 5, 7]})
    keep(place, SOME, {"autoattack": [4, 6]})
    figures = read_figures(place)
    # Of the images 2 to 6, AutoAttack leaves 4 and 6, PGD 2 to 5; only 4 survives both. Of all ten: 1, 4 and 7.
    assert figures["n"] == 5
    assert shares(figures) == {"autoattack": 2 / 5, "pgd-20": 4 / 5, "worst": 1 / 5}
    assert figures["broken-elsewhere"] == 0
    by_class = [rate["value"] for rate in figures["per-class"]["worst"]]
    assert by_class == [1 / 3, 0]  # even: 2, 4, 6; odd: 3, 5
    (other,) = figures["others"]
    assert (other["n"], other["worst"]["value"], other["known"]["value"]) == (10, 6 / 10, 3 / 10)
    (told,) = tell_others(figures)
    assert told.startswith("another evaluation of this model: pgd-20 on n = 10: 60.0 % [")
    assert "; with all attacks, 30.0 % [" in told
    masks = read_headline(place).evaluation.masks()  # type: ignore[union-attr]
    assert masks["worst"].tolist() == [False, False, True, False, False]


def test_the_order_of_the_evaluations_does_not_matter(place: Path) -> None:
    keep(place, SOME, {"autoattack": [4, 6]})
    keep(place, reversed_images := list(reversed(ALL)), {"pgd-20": [1, 2, 3, 4, 5, 7]})
    assert reversed_images[0] == 10
    figures = read_figures(place)
    assert (figures["n"], shares(figures)["worst"]) == (5, 1 / 5)


def test_without_autoattack_the_one_that_leaves_least_of_the_images_of_both(place: Path) -> None:
    keep(place, ALL, {"pgd-20": [1, 2, 3, 4]})  # of the common ones: 2, 3, 4
    keep(place, SOME, {"cw-30": [2, 3]})  # of more images a larger share, but of the common ones fewer
    assert (read_figures(place)["n"], shares(read_figures(place))["worst"]) == (5, 2 / 5)


def test_a_weaker_one_on_fewer_images_counts_only_where_it_breaks_something(place: Path) -> None:
    keep(place, ALL, {"autoattack": [1, 2, 3, 7]})
    keep(place, SOME, {"fgsm": [3, 4, 5, 6]})  # breaks 2
    figures = read_figures(place)
    assert (figures["n"], figures["broken-elsewhere"]) == (10, 1)
    assert shares(figures) == {"autoattack": 4 / 10, "worst": 3 / 10}
    counted, other = tell_others(figures)
    assert counted == "the worst case counts 1 more of these images as broken, by attacks on a part of them"
    assert "fgsm on n = 5: 80.0 %" in other
    assert "with all attacks, 20.0 %" in other  # of 2 to 6 only 3 survives both


def test_the_same_attacks_on_fewer_images_never_take_over(place: Path) -> None:
    keep(place, ALL, {"pgd-20": [1, 2, 3, 4, 5, 7], "fgsm": ALL[:9]})
    keep(place, SOME, {"pgd-20": [3, 4]})  # by its other random start
    figures = read_figures(place)
    assert figures["n"] == 10
    assert shares(figures) == {"pgd-20": 4 / 10, "fgsm": 9 / 10, "worst": 4 / 10}  # 1, 3, 4 and 7


def test_on_the_same_images_attack_by_attack(place: Path) -> None:
    keep(place, ALL, {"pgd-20": [1, 2, 3], "fgsm": [1, 2, 3, 4, 5]})
    keep(place, ALL, {"cw-30": [2, 3, 4], "fgsm": [1, 2, 3, 4, 6]})
    figures = read_figures(place)
    assert shares(figures) == {"pgd-20": 3 / 10, "fgsm": 4 / 10, "cw-30": 3 / 10, "worst": 2 / 10}
    assert "others" not in figures  # all its attacks are in the headline


def test_what_is_wrong_with_a_curve_goes_with_it(place: Path) -> None:
    keep(place, ALL, {"autoattack": [4]}, warnings=["of the model"])
    curve = [{"epsilon-255": 64.0, "value": 0.3, "interval": [0.1, 0.6], "attack": "pgd-20"}]
    keep(place, ALL, {"pgd-20": [4, 6]}, curve=curve, warnings=["pgd-20 is weak", "the curve ends at 30.0 %"])
    figures = read_figures(place)
    assert figures["curve"] == curve
    assert figures["warnings"] == ["of the model", "the curve ends at 30.0 %"]


def test_of_another_model_or_threat_nothing_counts(place: Path) -> None:
    kept = keep(place, ALL, {"pgd-20": [1, 2, 3]})
    keep(place, ALL, {"autoattack": []}, round=3)
    keep(place, ALL, {"autoattack": []}, **{"epsilon-255": 16.0})
    figures = read_figures(place)
    assert len(figures.pop("threats")) == 1
    assert figures == kept


def test_each_norm_and_radius_has_its_own_worst_case(place: Path) -> None:
    l2 = {"norm": "l2", "epsilon-255": 127.5}
    keep(place, ALL, {"pgd-20": [1, 2, 3, 4]}, **{"epsilon-255": 8.0})  # of a version that knew only Linf
    keep(place, ALL, {"autoattack": [1, 5, 6]}, **l2)
    keep(place, ALL, {"cw-30": [5, 7]}, **l2)
    keep(place, ALL, {"cw-30": [1, 2]}, norm="linf", **{"epsilon-255": 8.0})
    keep(place, ALL, {"fgsm": [9]}, norm="l2", **{"epsilon-255": 8.0})
    figures = read_figures(place)
    assert shares(figures) == {"pgd-20": 4 / 10, "cw-30": 2 / 10, "worst": 2 / 10}
    assert [shares(other)["worst"] for other in figures["threats"]] == [1 / 10, 1 / 10]  # 5; 9
    told = [line for line in tell_others(figures) if "threat" in line]
    assert [line.split(" %")[0] for line in told] == [
        "within another threat, 0.5 (L2; 127.5/255): autoattack, cw-30 on n = 10: 10.0",
        "within another threat, 0.03137 (L2; 8/255): fgsm on n = 10: 10.0",
    ]
    assert told[0] in write_report(place).read_text()


def test_the_headline_of_a_run_in_l2_is_of_l2(place: Path) -> None:
    (place / "config.json").write_text(json.dumps({"attack": {"norm": "l2", "epsilon-255": 127.5}}))
    keep(place, ALL, {"pgd-20": [1, 2, 3]}, norm="l2", **{"epsilon-255": 127.5})
    keep(place, ALL, {"pgd-20": []}, norm="linf", **{"epsilon-255": 127.5})
    assert shares(read_figures(place))["worst"] == 3 / 10
    assert "worst case of pgd-20 at epsilon 0.5 (L2; 127.5/255)" in write_report(place).read_text()
    known = {"ece": 0.1, "confidence": 0.5}
    keep(place, SOME, {}, norm="linf", calibration=known, **{"epsilon-255": 8.0})
    assert read_figures(place)["calibration"] == known  # in which no attack has a part


def test_the_lowest_where_nothing_tells_which_images_were_broken(place: Path) -> None:
    keep(place, ALL, {"autoattack": [1, 2, 3]}, predictions="")
    keep(place, SOME, {"pgd-20": [2]}, predictions="predictions-lost")
    (place / "evaluations" / "predictions-lost.npz").unlink()
    figures = read_figures(place)
    assert (figures["n"], shares(figures)["worst"]) == (5, 1 / 5)
    assert tell_others(figures)[-1] == APART
    assert figures["others"][0]["known"]["value"] == 3 / 10


def test_predictions_of_an_earlier_version_have_no_names_of_images(place: Path) -> None:
    keep(place, ALL, {"pgd-20": [1, 2, 3]}, names=False)
    keep(place, ALL, {"cw-30": [2, 3, 4]}, names=False)
    assert shares(read_figures(place))["worst"] == 2 / 10  # a digest says that they are the same images
    keep(place, SOME, {"fgsm": [2, 3]}, names=False)  # nothing says that these are some of them: the lowest counts
    assert (read_figures(place)["n"], read_figures(place)["apart"]) == (10, True)
    keep(place, ALL, {"cw-30": [2, 3, 4]})
    keep(place, SOME, {"fgsm": [3]})
    assert (read_figures(place)["n"], shares(read_figures(place))["worst"]) == (5, 1 / 5)


def test_predictions_that_are_of_other_figures_are_not_used(place: Path) -> None:
    keep(place, ALL, {"pgd-20": [1, 2, 3]})
    keep(place, ALL, {"cw-30": [4]}, predictions="predictions-0")
    figures = read_figures(place)
    assert shares(figures) == {"cw-30": 1 / 10, "worst": 1 / 10}
    assert [line.split(": ")[1] for line in tell_others(figures)[:1]] == ["pgd-20 on n = 10"]
    assert figures["apart"]


def test_a_study_counts_what_is_broken_on_its_own_images(place: Path) -> None:
    final = keep(place, ALL, {"pgd-20": [1, 2, 3, 4, 5, 7]})
    (place / "evaluations.jsonl").unlink()
    (place / "summary.json").write_text(json.dumps({"rounds": 4, "evaluated-round": 4, "final": final}))
    assert known_final(place) == (final, [])
    keep(place, SOME, {"pgd-20": SOME, "autoattack": [4, 6]}, predictions="predictions-later")
    found, later = known_final(place)
    assert later == ["autoattack"]
    assert found is not None
    assert (found["n"], shares(found)) == (10, {"pgd-20": 6 / 10, "worst": 3 / 10})


def test_an_earlier_version_s_robustness_of_a_minimal_attack_is_not_shown(place: Path) -> None:
    rate = {"value": 0.633, "interval": [0.6, 0.7]}
    minimal = {"success": rate | {"value": 0.9}, "median-l2": 0.5, "median-linf": 0.1, "robust-within-epsilon": rate}
    keep(place, ALL, {"pgd-20": [1, 2, 3]}, distortions={"deepfool": minimal})
    report = write_report(place).read_text()
    assert "<td>deepfool</td>" in report
    assert "90.0 %" in report
    assert "63.3 %" not in report
    assert "robust within" not in report


def test_chance_is_the_largest_class_of_the_test_images() -> None:
    assert chance({"n": 8, "class-examples": [5, 3]}) == 5 / 8
    assert chance({"n": 8}, {"test": [10, 2]}) == 6 / 8  # in turn: 2 and 2, then 4 more of the first
    assert chance({"n": 12}, {"test": [10, 2]}) == 10 / 12
    assert chance({"n": 10}, {"test": [100] * 3}) == 4 / 10
    assert chance({"n": 10}) is None


def test_an_image_has_the_same_name_in_every_subset() -> None:
    images = np.arange(4 * 3 * 2 * 2, dtype=np.uint8).reshape(4, 3, 2, 2)
    data = Dataset(images, np.array([0, 1, 0, 1]), ("a", "b"))
    names = data.image_ids()
    assert len(set(names)) == 4
    assert data.take(np.array([1, 3])).image_ids().tolist() == names[[1, 3]].tolist()
    assert Dataset(images, np.array([1, 1, 0, 1]), ("a", "b")).image_ids()[0] != names[0]


def test_report_card_comparison_and_terminal_have_one_headline(tmp_path: Path) -> None:
    one = run(tmp_path, "one")
    command = ("evaluate", str(one), "--attacks", "autoattack", "--examples", "20")
    done = invoke(*command)
    assert done.returncode == 0, done.stderr
    figures = read_figures(one)
    final = json.loads((one / "summary.json").read_text())["final"]
    (measured,) = read_evaluations(one)
    assert figures["n"] == 20
    assert figures["worst"]["value"] <= measured["worst"]["value"]
    assert list(figures["robust"]) == ["autoattack", "pgd-3"]
    (other,) = figures["others"]
    assert (other["n"], other["worst"]) == (40, final["worst"])
    assert other["known"]["value"] <= final["worst"]["value"]
    worst, low, high = (100 * x for x in (figures["worst"]["value"], *figures["worst"]["interval"]))
    told = f"{worst:.1f} % [{low:.1f}, {high:.1f}] on n = 20 test images, under autoattack, pgd-3"
    assert f"Worst case of all that is known of this model: {told}" in done.stdout
    report, card = write_report(one).read_text(), export_run(one, "safetensors")[1].read_text()
    assert re.search(rf"<td>worst case</td>\s*<td[^>]*>{worst:.1f} %</td>", report)
    assert f"[{low:.1f}, {high:.1f}], worst case of autoattack, pgd-3 at epsilon 8/255" in report
    assert f"| worst case | {worst:.1f} | [{low:.1f}, {high:.1f}] |" in card
    assert "## Accuracy on n = 20 of 1,000 test images" in card
    _, results, _ = compare_runs([one, shutil.copytree(one, tmp_path / "again")])
    assert results.rows[0][1:2] == ["20 of 1,000"]
    assert results.rows[0][-1] == f"{worst:.1f} [{low:.1f}, {high:.1f}]"
    below = f"pgd-3 on n = 40: {100 * final['worst']['value']:.1f} %"
    for text in (done.stdout, card, "\n".join(results.notes)):
        assert below in text
        assert "10.0 % (always the most frequent class)" in text
    assert "chance: 10.0 % (always the most frequent class)" in report
