"""Robust accuracy: per-example worst case, on a model whose robustness is known."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.attacks.threat import Threat
from common.data.server_data import take_server_data
from common.errors import FedShieldError
from common.evaluation.evaluate import Evaluation, Rate, evaluate
from common.evaluation.examples import attack_examples
from common.evaluation.store import ArrayStore
from common.factory import make_model, prepare_data
from common.models.networks import build_model
from server.evaluation import evaluate_finally
from tests.helpers.settings import Threshold, tiny_config

THREAT = Threat(8 / 255, 2 / 255, 7)

pytestmark = pytest.mark.usefixtures("one_thread")


def images(*levels: int) -> np.ndarray:
    found = np.full((len(levels), 3, 4, 4), 100, dtype=np.uint8)
    found[:, 0, 0, 0] = levels
    return found


def same(one: Evaluation, other: Evaluation) -> bool:
    left, right = (found.predictions for found in (one, other))
    return list(left) == list(right) and all(np.array_equal(left[label], right[label]) for label in left)


class FourClasses(Threshold):
    """``Threshold`` with two classes that never win: AutoAttack's loss looks at four logits."""

    def forward(self, pixels: Tensor) -> Tensor:
        logits = super().forward(pixels)
        return torch.cat([logits, torch.full_like(logits, -30.0)], 1)


class Counted(Threshold):
    """Writes down how many images each forward pass had, and can be interrupted at one of them."""

    def __init__(self, interrupt_at: int = -1) -> None:
        super().__init__()
        self.interrupt_at = interrupt_at
        self.seen: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(len(pixels))
        if len(self.seen) == self.interrupt_at:
            raise KeyboardInterrupt
        return super().forward(pixels)


LEVELS = (100, 119, 121, 125, 129, 135, 137, 200)
LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 1])  # the fourth is classified wrongly already


def test_known_radii_give_known_accuracies() -> None:
    found = evaluate(Threshold(), images(*LEVELS), LABELS, ("fgsm", "pgd-20"), Threat(8 / 255, 2 / 255, 7), seed=1)
    # Natural: all but 125. Within 8 of 128 lie 121, 129 and 135; 119 and 137 are 9 away.
    assert (found.natural.correct, found.n) == (7, 8)
    assert found.robust["fgsm"].correct == 4
    assert found.robust["pgd-20"].correct == 4
    assert found.masks()["worst"].sum() == 4


def test_worst_case_counts_an_example_that_any_attack_breaks() -> None:
    # One step of 2/255 (PGD-1) from a random start and the whole budget at once (FGSM) break different sets; whatever
    # they are, the worst case is their intersection, example by example, so it is at most the smaller one.
    found = evaluate(Threshold(), images(*LEVELS), LABELS, ("fgsm", "pgd-1", "bim-1"), Threat(8 / 255, 2 / 255, 7), 1)
    assert found.robust["bim-1"].correct == 6  # only 129 is within one step of 2
    assert found.masks()["worst"].sum() == min(rate.correct for rate in found.robust.values()) == 4


def test_zero_epsilon_gives_natural_accuracy_exactly() -> None:
    model = build_model("cnn", 10, 4, "relu", True, 1)
    data = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    with torch.no_grad():
        labels = model.eval()(torch.from_numpy(data).float() / 255).argmax(1).numpy()
    labels[::3] = (labels[::3] + 1) % 10
    attacks = ("fgsm", "pgd-10x2", "cw-3", "autoattack", "square", "deepfool")
    found = evaluate(model, data, labels, attacks, Threat(0.0, 2 / 255, 7), 1, batch_size=10)
    assert found.natural.correct == 64 - 22
    assert {rate.correct for rate in found.parts.values()} == {42}
    assert {rate.correct for rate in found.robust.values()} == {found.masks()["worst"].sum()} == {found.natural.correct}


def test_evaluates_in_eval_mode_and_gives_the_mode_back() -> None:
    model = build_model("cnn", 10, 4, "relu", True, 1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    first = evaluate(model, data, np.arange(20) % 10, ("pgd-2",), Threat(8 / 255, 2 / 255, 7), 1)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    torch.rand(5)
    again = evaluate(model, data, np.arange(20) % 10, ("pgd-2",), Threat(8 / 255, 2 / 255, 7), 1)
    assert same(again, first)


def test_no_correct_example_and_no_attack() -> None:
    none = evaluate(Threshold(), images(100, 100), np.array([1, 1]), ("pgd-2",), Threat(8 / 255, 2 / 255, 7), 1)
    assert (none.natural.correct, none.robust["pgd-2"].correct, none.masks()["worst"].sum()) == (0, 0, 0)
    natural = evaluate(Threshold(), images(100, 200), np.array([0, 0]), (), Threat(8 / 255, 2 / 255, 7), 1)
    assert (natural.natural.correct, natural.worst, natural.robust) == (1, None, {})


def test_log_line_shows_every_attack_its_interval_and_n() -> None:
    found = evaluate(Threshold(), images(*LEVELS), LABELS, ("fgsm", "pgd-20"), Threat(8 / 255, 2 / 255, 7), 1)
    assert found.line() == (
        "natural 87.5 % [52.9, 97.8]  fgsm 50.0 % [21.5, 78.5]  pgd-20 50.0 % [21.5, 78.5]  "
        "worst case 50.0 % [21.5, 78.5]  n = 8"
    )


def test_restarts_attack_only_what_survived_and_begin_with_the_attack_itself() -> None:
    model = Counted()
    found = evaluate(model, images(*LEVELS), LABELS, ("pgd-1", "pgd-1x3"), THREAT, seed=1)
    once, thrice = found.masks()["pgd-1"], found.masks()["pgd-1x3"]
    assert not (thrice & ~once).any()
    left = int(once.sum())
    # The probe, the natural images; pgd-1 on the 7 that are correct: one step, and the answer. Again, then on the rest.
    assert model.seen[:6] == [1, 8, 7, 7, 7, 7]
    assert model.seen[6:8] == [left, left]
    assert model.seen[8] == model.seen[9] <= left


def test_autoattack_runs_each_part_on_the_survivors_of_the_one_before() -> None:
    found = evaluate(FourClasses(), images(*LEVELS), LABELS, ("autoattack", "apgd-ce"), THREAT, seed=1)
    assert {part: rate.correct for part, rate in found.parts.items()} == {
        "apgd-ce": 4,
        "apgd-t": 4,
        "fab-t": 4,
        "square": 4,
    }
    assert found.robust["autoattack"].correct == found.masks()["worst"].sum() == 4
    assert np.array_equal(found.predictions["apgd-ce"], found.predictions["autoattack"])
    # Broken: 121, 129 and 135, which turn to the other side; 125 keeps its wrong answer.
    assert found.predictions["autoattack"].tolist() == [0, 0, 1, 0, 0, 0, 1, 1]


def test_autoattacks_later_parts_see_fewer_images() -> None:
    class CountedClasses(FourClasses):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[int] = []

        def forward(self, pixels: Tensor) -> Tensor:
            self.seen.append(len(pixels))
            return super().forward(pixels)

    model = CountedClasses()
    evaluate(model, images(*LEVELS), LABELS, ("apgd-ce-3",), THREAT, seed=1)
    alone = len(model.seen)
    model.seen.clear()
    evaluate(model, images(*LEVELS), LABELS, ("autoattack",), THREAT, seed=1)
    # The probe, the natural images, apgd-ce on the 7 that are correct; from then on the 4 that it leaves.
    assert model.seen[:3] == [1, 8, 7]
    after = model.seen[[number for number, count in enumerate(model.seen) if count == 7][-1] + 1 :]
    assert alone > 3
    assert len(after) > 100
    assert max(after) == 4


def test_deepfool_finds_the_known_distortions() -> None:
    found = evaluate(Threshold(), images(*LEVELS), LABELS, ("fgsm", "deepfool"), THREAT, seed=1)
    distortion = found.distortions["deepfool"]
    # To the boundary and 2 % further, by one pixel: so L2 and Linf are the same.
    radii = 1.02 * np.array([28, 9, 7, 0, 1, 7, 9, 72]) / 255
    assert distortion.linf == pytest.approx(radii, abs=1e-5)
    assert distortion.l2 == pytest.approx(radii, abs=1e-5)
    assert distortion.success == Rate(7, 7)
    figures = distortion.as_json()
    assert figures["median-l2"] == pytest.approx(1.02 * 9 / 255, abs=1e-5)
    assert figures["mean-linf"] == pytest.approx(1.02 * 19 / 255, abs=1e-5)
    assert list(found.robust) == ["fgsm"]  # and so the worst case knows nothing of it


def test_cw_finds_no_distortion_below_the_smallest_there_is() -> None:
    distortion = evaluate(Threshold(), images(*LEVELS), LABELS, ("cw-l2",), THREAT, 1).distortions["cw-l2"]
    smallest = np.array([28, 9, 7, 0, 1, 7, 9, 72]) / 255
    assert distortion.fooled.sum() >= 4
    assert (distortion.l2[distortion.fooled] >= smallest[distortion.fooled] - 1e-6).all()


def test_without_a_distortion_there_is_no_figure_for_it() -> None:
    found = evaluate(Threshold(), images(100, 100), np.array([1, 1]), ("deepfool",), THREAT, 1)
    assert found.distortions["deepfool"].as_json() == {
        "success": None,
        "median-l2": None,
        "mean-l2": None,
        "median-linf": None,
        "mean-linf": None,
    }


def test_classes_and_clients_by_hand() -> None:
    # Class 2 has no test image. Natural: 3 of 4 of class 0, both of class 1. Under attack: 1 of 4, and 1 of 2.
    labels = np.array([0, 0, 0, 0, 1, 1])
    natural = np.array([0, 0, 0, 2, 1, 1], dtype=np.int16)
    attacked = np.array([0, 1, 1, 2, 1, 0], dtype=np.int16)
    found = Evaluation(labels, {"natural": natural, "pgd-20": attacked}, 3)
    assert found.per_class() == {
        "natural": [Rate(3, 4), Rate(2, 2), None],
        "pgd-20": [Rate(1, 4), Rate(1, 2), None],
        "worst": [Rate(1, 4), Rate(1, 2), None],
    }
    shares = np.array([[30, 10, 0], [0, 10, 30], [0, 0, 5]])  # the second has class 1 alone among those measured
    assert found.per_client(shares)["natural"] == [0.75 * 0.75 + 0.25 * 1.0, 1.0, None]
    assert found.per_client(shares)["worst"] == [0.75 * 0.25 + 0.25 * 0.5, 0.5, None]
    figures = found.as_json(details=True, shares=shares)
    json.dumps(figures, allow_nan=False)
    assert figures["class-examples"] == [4, 2, 0]
    assert figures["per-class"]["natural"][2] is None
    assert "per-class" not in found.as_json()


@pytest.mark.parametrize(("n", "rough"), [(1000, True), (1001, False)])
def test_a_thousand_examples_are_called_rough(n: int, rough: bool) -> None:
    found = Evaluation(np.zeros(n, np.int64), {"natural": np.zeros(n, np.int16)}, 2)
    assert found.caption == f"n = {n} test images" + rough * " (1,000 examples or fewer: a rough figure)"
    assert found.as_json(details=True)["rough"] is rough


class NoGradient(FourClasses):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels.detach())


@pytest.mark.parametrize("label", ["fgsm", "pgd-20x2", "autoattack", "deepfool", "cw-l2"])
def test_an_attack_without_a_gradient_is_one_clear_line(label: str) -> None:
    with pytest.raises(FedShieldError, match=f"^{label} cannot run: the model's output has no gradient .* square$"):
        evaluate(NoGradient(), images(*LEVELS), LABELS, ("square-20", label), THREAT, 1)


def test_a_black_box_needs_no_gradient() -> None:
    found = evaluate(NoGradient(), images(*LEVELS), LABELS, ("square-50",), THREAT, 1)
    assert 4 <= found.robust["square-50"].correct < 7


# Batches of 3: the probe is forward pass 1, natural 2 to 4, fgsm 5 to 10, pgd-2 11 to 19, its restart from 20.
@pytest.mark.parametrize("interrupt_at", [3, 7, 14, 22])
def test_an_interrupted_evaluation_goes_on_to_the_same_numbers(tmp_path: Path, interrupt_at: int) -> None:
    arguments = images(*LEVELS), LABELS, ("fgsm", "pgd-2x2"), THREAT, 1, 3
    whole = Counted()
    expected = evaluate(whole, *arguments)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Counted(interrupt_at), *arguments, kept=ArrayStore(tmp_path))
    rest = Counted()
    assert same(evaluate(rest, *arguments, kept=ArrayStore(tmp_path)), expected)
    assert len(rest.seen) < len(whole.seen) - interrupt_at + 5
    finished = Counted()
    assert same(evaluate(finished, *arguments, kept=ArrayStore(tmp_path)), expected)
    assert finished.seen == [1]
    assert not list(tmp_path.glob("*.partial"))


def test_one_more_attack_runs_alone(tmp_path: Path) -> None:
    arguments = images(*LEVELS), LABELS
    evaluate(Counted(), *arguments, ("pgd-2", "deepfool"), THREAT, 1, kept=ArrayStore(tmp_path))
    model = Counted()
    found = evaluate(model, *arguments, ("fgsm", "pgd-2", "deepfool"), THREAT, 1, kept=ArrayStore(tmp_path))
    assert model.seen == [1, 7, 7]
    assert found.distortions["deepfool"].success == Rate(7, 7)


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:100], lambda content: b"x" * 500])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    arguments = images(*LEVELS), LABELS, ("pgd-2",), THREAT, 1
    expected = evaluate(Threshold(), *arguments, kept=ArrayStore(tmp_path))
    path = tmp_path / "pgd-2.npz"
    path.write_bytes(damage(path.read_bytes()))
    model = Counted()
    assert same(evaluate(model, *arguments, kept=ArrayStore(tmp_path)), expected)
    assert len(model.seen) == 1 + 3


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    ArrayStore(tmp_path).save("some", {"values": np.arange(1000)})
    content = bytearray((tmp_path / "some.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "some.npz").write_bytes(content)
    assert ArrayStore(tmp_path).load("some") is None


def test_examples_to_look_at(tmp_path: Path) -> None:
    found = evaluate(Threshold(), images(*LEVELS), LABELS, ("fgsm",), THREAT, 1)
    shown = attack_examples(Threshold(), images(*LEVELS), LABELS, found, THREAT, 1)
    assert len(shown["example_images"]) == 7
    assert shown["example_images"][:, 0, 0, 0].tolist() == [100, 119, 121, 129, 135, 137, 200]
    assert shown["example_attacked"].tolist() == [0, 0, 1, 0, 0, 1, 1]
    assert np.abs(shown["example_adversarial"] - shown["example_images"] / 255).max() == pytest.approx(8 / 255)
    none = attack_examples(Threshold(), images(100), np.array([1]), found_nothing(), THREAT, 1)
    assert none["example_images"].shape == (0, 3, 4, 4)


def found_nothing() -> Evaluation:
    return evaluate(Threshold(), images(100), np.array([1]), ("fgsm",), THREAT, 1)


def test_the_final_evaluation_tells_everything_and_goes_on_where_it_was(tmp_path: Path) -> None:
    config = tiny_config(evaluate__final_attacks="fgsm,pgd-2,deepfool", evaluate__final_examples=30)
    splits, division = prepare_data(config)
    model = make_model(config, 10)
    counts = take_server_data(splits, division).counts
    found, figures = evaluate_finally(model, splits.test, config, counts, tmp_path)
    assert figures["n"] == 30
    assert figures["class-examples"] == [3] * 10
    assert len(figures["per-client"]["worst"]) == 10
    assert figures["classes"] == list(splits.test.classes)
    assert isinstance(figures["warnings"], list)
    json.dumps(figures, allow_nan=False)
    with np.load(tmp_path / f"{figures['predictions']}.npz") as kept:
        assert kept["attacks"].tolist() == ["natural", "fgsm", "pgd-2"]
        assert np.array_equal(kept["predictions"][2], found.predictions["pgd-2"])
        assert kept["example_images"].dtype == np.uint8
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.npz")}
    again, _ = evaluate_finally(model, splits.test, config, None, tmp_path)
    assert same(again, found)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.npz")} == written
    with torch.no_grad():
        next(model.parameters()).add_(1)  # another model has another place
    evaluate_finally(model, splits.test, config, None, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * 2  # each has its predictions, too
