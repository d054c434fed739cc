"""Accuracy under corruptions: counted by hand, kept, and continued."""

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from common.evaluation.corrupted import evaluate_corrupted
from common.evaluation.store import ArrayStore
from tests.helpers.settings import Threshold

KINDS = ["brightness", "contrast"]


class Counted(Threshold):
    """Counts its forward passes, and is interrupted at one of them."""

    def __init__(self, interrupt_at: int = -1) -> None:
        super().__init__()
        self.interrupt_at = interrupt_at
        self.passes = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.passes += 1
        if self.passes == self.interrupt_at:
            raise KeyboardInterrupt
        return super().forward(pixels)


def gray(*levels: int) -> np.ndarray:
    return np.array(levels, np.uint8)[:, None, None, None].repeat(3, 1).repeat(4, 2).repeat(4, 3)


# Class 1 from 128 on. Brightness adds 12.75, 25.5, 38.25, 51 and 76.5; contrast leaves an even image even.
IMAGES, LABELS = gray(60, 100, 110, 200), np.array([0, 0, 0, 1])


def test_accuracy_is_counted_by_severity_and_over_all() -> None:
    found = evaluate_corrupted(Threshold(), IMAGES, LABELS, KINDS, seed=1).as_json()
    bright, contrast = (found["kinds"][kind] for kind in KINDS)
    # 110 passes 128 from the second severity on, 100 from the third on, and 60 at the last: 136.5.
    assert [cell["value"] for cell in bright["severities"]] == [1, 0.75, 0.5, 0.5, 0.25]
    assert [cell["value"] for cell in contrast["severities"]] == [1] * 5
    assert bright["mean"]["value"] == pytest.approx(0.6)
    # The images are right in 9, 7, 6 and 10 of 10 versions: mean 0.8, deviation 0.18257, t = 3.18245 with 3 degrees of
    # freedom: 0.8 ± 3.18245 · 0.18257 / 2.
    assert found["mean"]["value"] == pytest.approx(0.8)
    assert found["mean"]["interval"] == pytest.approx([0.50949, 1], abs=1e-4)


def test_a_second_evaluation_takes_what_is_kept(tmp_path: Path) -> None:
    kept = ArrayStore(tmp_path)
    first, second = Counted(interrupt_at=8), Counted()
    with pytest.raises(KeyboardInterrupt):
        evaluate_corrupted(first, IMAGES, LABELS, KINDS, 1, kept)
    found = evaluate_corrupted(second, IMAGES, LABELS, KINDS, 1, kept).as_json()
    assert second.passes == 3  # seven of ten were done
    again = Counted()
    assert evaluate_corrupted(again, IMAGES, LABELS, KINDS, 1, kept).as_json() == found
    assert again.passes == 0
    assert evaluate_corrupted(Threshold(), IMAGES, LABELS, KINDS, 1).as_json() == found


def test_a_damaged_file_is_measured_again(tmp_path: Path) -> None:
    kept = ArrayStore(tmp_path)
    found = evaluate_corrupted(Threshold(), IMAGES, LABELS, KINDS, 1, kept).as_json()
    (tmp_path / "contrast-2.npz").write_bytes(b"damaged")
    wrong = {"predictions": np.zeros(4, np.int16), "confidences": np.full(4, 7, np.float32)}
    kept.save("brightness-1", wrong)
    again = Counted()
    assert evaluate_corrupted(again, IMAGES, LABELS, KINDS, 1, kept).as_json() == found
    assert again.passes == 2
