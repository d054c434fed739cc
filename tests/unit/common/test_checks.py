"""Doubts: each sign of a broken evaluation on a model that shows it, and none on a model that does not."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.attacks.threat import Threat
from common.evaluation.evaluate import evaluate
from common.evaluation.results import Evaluation, Rate
from common.evaluation.sanity_checks import find_warnings
from tests.helpers.settings import Threshold

THREAT = Threat(8 / 255, 2 / 255, 7)

pytestmark = pytest.mark.usefixtures("one_thread")


class Masked(Threshold):
    """Its gradient points to the second pixel, which decides nothing."""

    def forward(self, pixels: Tensor) -> Tensor:
        decoy = 1e-4 * pixels[:, 0, 0, 1]
        return super().forward(pixels.detach()) + torch.stack([decoy - decoy.detach(), decoy.detach() - decoy], 1)


class NoGradient(Threshold):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels.detach())


def data(*distances: int) -> tuple[np.ndarray, np.ndarray]:
    """Images at these distances from the boundary, on both sides in turn, and their labels."""
    signs = np.where(np.arange(len(distances)) % 2, 1, -1)
    images = np.full((len(distances), 3, 4, 4), 100, dtype=np.uint8)
    images[:, 0, 0, 0] = 128 + signs * np.array(distances)
    return images, (signs > 0).astype(np.int64)


def measured(broken: dict[str, range], n: int = 40) -> Evaluation:
    """An evaluation of ``n`` images of class 1 in which each attack broke these rows."""
    predictions = {"natural": np.ones(n, np.int16)}
    for label, rows in broken.items():
        predictions[label] = np.where(np.isin(np.arange(n), rows), 0, 1).astype(np.int16)
    return Evaluation(np.ones(n, np.int64), predictions, 2)


def found(model: nn.Module, evaluation: Evaluation, distances: tuple[int, ...] = (20,) * 40) -> tuple[str, ...]:
    images, labels = data(*distances)
    return find_warnings(model, images, labels, evaluation, THREAT, 1)


def test_a_sound_evaluation_raises_no_doubt() -> None:
    images, labels = data(*range(1, 21), *range(1, 21))
    evaluation = evaluate(Threshold(), images, labels, ("fgsm", "pgd-20", "square-100"), THREAT, 1)
    assert find_warnings(Threshold(), images, labels, evaluation, THREAT, 1) == ()


def test_one_step_stronger_than_many() -> None:
    assert found(Threshold(), measured({"fgsm": range(10), "pgd-10": range(1)})) == (
        "fgsm broke 9 images that pgd-10 did not, and pgd-10 0 that fgsm did not: one step should not be stronger "
        "than many; the gradient may be masked, or the step size wrong",
    )
    assert found(Threshold(), measured({"fgsm": range(6), "pgd-10": range(0)})) == ()  # 1 in 64 by chance alone
    assert found(Threshold(), measured({"fgsm": range(10), "pgd-10": range(10, 20)})) == ()


def test_black_box_stronger_than_white_box() -> None:
    first, *rest = found(Threshold(), measured({"pgd-10": range(2), "apgd-ce": range(3), "square": range(2, 15)}))
    assert not rest
    assert first.startswith(
        "square broke 12 images that no attack with gradients broke, and these broke 2 that it did not"
    )
    assert found(Threshold(), measured({"pgd-10": range(20), "square": range(15, 25)})) == ()


def test_black_box_at_the_end_of_autoattack() -> None:
    evaluation = measured({"autoattack": range(20)})
    for broken, warned in ((1, False), (3, True)):  # of 40, where 0.2 % are expected
        evaluation.parts.update({"fab-t": Rate(20 + broken, 40), "square": Rate(20, 40)})
        sentences = found(Threshold(), evaluation)
        assert bool(sentences) is warned
    assert sentences[0].startswith(
        "square, the black-box part of autoattack, broke 3 of 40 images that its other parts"
    )


def test_gradients_that_are_exactly_zero() -> None:
    # So steep that the cross-entropy is 0, and its gradient with it, for every image.
    images, labels = data(*(50,) * 40)
    evaluation = evaluate(Threshold(1e5), images, labels, ("pgd-5",), THREAT, 1)
    first, second = find_warnings(Threshold(1e5), images, labels, evaluation, THREAT, 1)
    assert first.startswith("the gradient of the loss is exactly zero for 40 of 40 images")
    assert second.startswith("under pgd-20 at epsilon 64/255 (Linf), ")


def test_accuracy_that_a_large_budget_does_not_break() -> None:
    images, labels = data(*(50,) * 40)
    evaluation = evaluate(Masked(), images, labels, ("bim-5",), THREAT, 1)
    assert evaluation.values()["worst"] == 1
    (only,) = find_warnings(Masked(), images, labels, evaluation, THREAT, 1)
    # Of the random starts, uniform in ±64, those beyond 50 on the other side break an image by themselves.
    assert only.startswith("under pgd-20 at epsilon 64/255 (Linf), ")
    assert only.endswith("more than by chance (50.0 %): an attack that works would break them all at this epsilon")


def test_steps_that_are_too_few() -> None:
    # 4 steps of 1/255 from a random start in ±8: they do not reach far enough, as 8 do more often.
    images, labels = data(*(6,) * 300)
    threat = Threat(8 / 255, 1 / 255, 7)
    evaluation = evaluate(Threshold(), images, labels, ("pgd-4",), threat, 1)
    few, weak = find_warnings(Threshold(), images, labels, evaluation, threat, 1)
    assert "images that survived pgd-4, pgd-8 broke" in few
    assert few.endswith("4 steps are too few")
    assert re.match(r"cw-20, .*, broke (\d+) of \1 images that survived pgd-4: robust accuracy is overstated", weak)


def test_without_a_gradient_only_a_black_box_was_there() -> None:
    (only,) = found(NoGradient(), measured({"square": range(5)}))
    assert only.startswith("the model's output has no gradient with respect to its input")


def test_nothing_to_warn_of() -> None:
    images, labels = data(*(5,) * 40)
    nothing = Threat(0.0, 2 / 255, 7)
    evaluation = evaluate(Masked(), images, labels, ("fgsm", "pgd-5"), nothing, 1)
    assert find_warnings(Masked(), images, labels, evaluation, nothing, 1) == ()
    assert found(Masked(), evaluate(Masked(), images, labels, ("deepfool",), THREAT, 1)) == ()
    none_correct = evaluate(Threshold(), images, 1 - labels, ("fgsm", "pgd-5", "square-5"), THREAT, 1)
    assert find_warnings(Threshold(), images, 1 - labels, none_correct, THREAT, 1) == ()


def test_images_of_a_single_class_leave_nothing_to_doubt_a_large_budget_by() -> None:
    for count in (1, 3):
        images, labels = data(*(50,) * count)
        evaluation = evaluate(Masked(), images, labels * 0 + labels[0], ("bim-5",), THREAT, 1)
        assert find_warnings(Masked(), images, labels * 0 + labels[0], evaluation, THREAT, 1) == ()
