"""Calibration: the error by hand, and what a model says of its answers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.evaluation.confidence import Answers, answer, calibration_error, calibration_of
from tests.helpers.settings import Threshold

LEVELS = np.full((3, 3, 4, 4), 138, np.uint8)


def test_the_error_is_the_mean_gap_of_the_bins() -> None:
    confidences = np.array([0.95, 0.95, 0.95, 0.62, 0.65, 0.30], np.float32)
    correct = np.array([True, True, False, True, False, True])
    # Bin 15: |2/3 - 0.95| = 0.28333 for three; bin 10: |1/2 - 0.635| = 0.135 for two; bin 5: |1 - 0.30| = 0.70 for one.
    # (0.85 + 0.27 + 0.70) / 6
    assert calibration_error(confidences, correct) == pytest.approx(0.303333, abs=1e-6)


def test_the_ends_have_their_bins() -> None:
    ends = np.array([0.0, 1.0], np.float32)
    assert calibration_error(ends, np.array([False, True])) == 0
    assert calibration_error(ends, np.array([True, False])) == 1


def test_gaps_of_one_bin_cancel_and_those_of_two_do_not() -> None:
    half = np.array([True, False])
    assert calibration_error(np.array([0.5, 0.5], np.float32), half) == 0
    assert calibration_error(np.array([0.4, 0.6], np.float32), half) == pytest.approx(0.6, abs=1e-6)


def test_a_model_answers_with_its_softmax() -> None:
    model = Threshold().train()
    found = answer(model, LEVELS, batch_size=2)
    assert model.training
    assert found.predictions.tolist() == [1, 1, 1]
    # Logits -m and m, m = 20 · 10/255 = 0.7843: 1 / (1 + exp(-1.5686)).
    assert found.confidences == pytest.approx(0.82757, abs=1e-4)
    figures = calibration_of(found, np.array([1, 1, 0]))
    assert figures == pytest.approx({"ece": 0.82757 - 2 / 3, "confidence": 0.82757}, abs=1e-4)


def test_outputs_that_are_no_numbers_have_no_calibration() -> None:
    class Broken(Threshold):
        def forward(self, pixels: Tensor) -> Tensor:
            return torch.full((len(pixels), 2), float("nan"))

    assert calibration_of(answer(Broken(), LEVELS, 5), np.array([1, 1, 0])) is None
    assert calibration_of(Answers(np.zeros(1, np.int16), np.ones(1, np.float32)), np.array([0])) is not None
