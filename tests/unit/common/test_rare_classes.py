"""What is said of rare classes: in a run, by ``partitions``, ``split-data`` and ``evaluate``."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from common.data.rare_classes import few_images, told_rare_classes, told_uneven_draw
from server.evaluation import evaluate_run
from simulations.centralized import train_centrally
from simulations.cli.main import app
from tests.helpers.runs import run
from tests.helpers.settings import tiny_config, tiny_flat

CLASSES = ["cat", "cow", "dog", "emu"]
# 600, 600, 600 and 60 images, as they are divided with a tenth for validation and a fifth for the pool.
DIVIDED = {
    "classes": CLASSES,
    "clients": [[200, 200, 200, 20], [236, 235, 236, 12]],
    "pool": [106, 106, 106, 17],
    "validation": [58, 59, 58, 11],
    "used": 1860,
    "available": 1860,
    "test": [100, 100, 100, 10],
}
SETTINGS = tiny_flat(**{"data__validation_fraction": 0.1, "evaluate__examples": 0, "evaluate__final_examples": 0})


def test_who_was_spared_is_told() -> None:
    assert told_rare_classes(DIVIDED, SETTINGS) == [
        "data.validation-fraction = 0.1 takes at most 19 % of a class: 11 of 60 emu; of other classes up to 59",
        "sharing.pool-fraction = 0.2 takes at most 36 % of a class: 17 of 49 emu; of other classes up to 106",
    ]


def test_of_classes_of_one_size_nothing_is_told() -> None:
    even = {"clients": [[20] * 4, [22] * 4], "pool": [10, 10, 11, 11], "validation": [5] * 4, "test": [30] * 4}
    assert told_rare_classes({**DIVIDED, **even}, {**SETTINGS, "evaluate.examples": 50}) == []
    assert few_images({**DIVIDED, **even}, federated=True) == ""


def test_divided_data_is_not_judged_by_settings_that_did_not_divide_it() -> None:
    assert told_rare_classes(DIVIDED, {**SETTINGS, "data.name": "split"}) == []


def test_a_draw_that_changes_how_common_a_class_is_is_told() -> None:
    # 240 of 1,860, 60 of each class: emu is a quarter of them, and 60 / 1,860 of all. Others fall from 32.3 to 25 %.
    cut = {**DIVIDED, "used": 240, "available-by-class": [600, 600, 600, 60]}
    assert told_rare_classes(cut, {**SETTINGS, "evaluate.final-examples": 130})[0] == (
        "data.max-examples = 240 draws images balanced over the classes: emu is 25 % of these images and 3.23 % of all"
    )
    # Of 130 test images, 10 are of emu, which has no more, and 40 of each other: 7.69 % and 10 / 310.
    assert told_rare_classes(cut, {**SETTINGS, "evaluate.final-examples": 130})[-1] == (
        "evaluate.final-examples = 130 draws images balanced over the classes: emu is 7.69 % of these images and "
        "3.23 % of all"
    )
    assert told_uneven_draw("x", 1000, [9000, 900], ["a", "b"]) == (
        "x = 1000 draws images balanced over the classes: b is 50 % of these images and 9.09 % of all"
    )
    assert (
        told_uneven_draw("x", 0, [9000, 900], ["a", "b"]) == told_uneven_draw("x", 9900, [9000, 900], ["a", "b"]) == ""
    )
    assert told_uneven_draw("x", 3, [10] * 10, list("abcdefghij")) == ""


def test_too_few_images_at_the_clients_are_warned_of() -> None:
    few = {**DIVIDED, "clients": [[200, 200, 200, 5], [200, 200, 4, 4]], "available": 2000}
    assert few_images(few, federated=True) == (
        "fewer than 10 training images of a class at all clients together: emu 9; lower sharing.pool-fraction, or "
        "lower data.validation-fraction, or raise data.max-examples, or add images"
    )
    alone = {"classes": ["a", "b"], "clients": [[10, 9]], "used": 19, "available": 19}
    assert few_images(alone, federated=False) == ("fewer than 10 training images of a class: b 9; add images")
    many = {"classes": list("abcdefg"), "clients": [[0, 1, 2, 3, 4, 5, 6]], "used": 21, "available": 21}
    assert "together: a 0, b 1, c 2, d 3, e 4 and 2 more; " in few_images(many, federated=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60, 60, 60, 24 and 3 training images, and 12, 12, 12, 12 and 2 test images."""
    root, rng = tmp_path_factory.mktemp("own") / "farm", np.random.default_rng(1)
    for part, counts in (("train", (60, 60, 60, 24, 3)), ("test", (12, 12, 12, 12, 2))):
        for name, count in zip([*CLASSES, "yak"], counts, strict=True):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def of_folder(folder: Path, **changes: object) -> dict[str, object]:
    data = {"data__name": "folder", "data__root": str(folder), "data__image_size": 16, "partition__scheme": "iid"}
    return {**data, "data__max_examples": 0, "federation__clients": 2, "federation__rounds": 1, **changes}


# A fifth of the 207 images is 41: yak gives 0.36 × 3, rounded down; emu's 8.64 are rounded down to 8, and the others
# give 32. So 2 and 16 images stay with the clients.
TOLD = [
    "sharing.pool-fraction = 0.2 takes at most 36 % of a class: 8 of 24 emu, 1 of 3 yak; of other classes up to 11",
    "warning: fewer than 10 training images of a class at all clients together: yak 2; lower sharing.pool-fraction, or "
    "add images",
]


@pytest.mark.parametrize("command", ["partitions", "split-data"])
def test_a_command_that_divides_a_folder_tells_it(folder: Path, tmp_path: Path, command: str) -> None:
    options = {key.replace("__", ".").replace("_", "-"): value for key, value in of_folder(folder).items()}
    given = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    given += ["--set", f"results.dir={tmp_path}", *(["--out", str(tmp_path)] if command == "split-data" else [])]
    done = CliRunner().invoke(app, [command, *given])
    assert done.exit_code == 0, done.output
    assert [line for line in done.output.splitlines() if line in TOLD] == TOLD


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said right after the line on images."""
    lines = list(dict.fromkeys(caplog.messages))  # the log may have passed each on twice
    first = next(place for place, line in enumerate(lines) if line.startswith("Images: "))
    return lines[first + 1 : first + 5]


def test_a_run_tells_it_before_it_starts(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fedshield").addHandler(caplog.handler)
    caplog.set_level(logging.INFO, "fedshield")
    run(tmp_path, "run", **of_folder(folder, evaluate__final_examples=20))
    # Of 20 test images, yak gives both of its 2, which are 4 % of all, and each other class 4.5.
    drawn = "draws images balanced over the classes: yak is 10 % of these images and 4 % of all"
    told = lines_of(caplog)
    assert told[:3] == [TOLD[0], f"evaluate.final-examples = 20 {drawn}", TOLD[1]]
    assert "set train.flip=off" in told[3]
    caplog.clear()
    evaluate_run(tmp_path / "run", {"evaluate.final-examples": 25, "evaluate.final-attacks": "fgsm"})
    assert "evaluate.final-examples = 25" not in caplog.text  # yak is 8 %: not more than twice as common
    evaluate_run(tmp_path / "run", {"evaluate.final-examples": 10, "evaluate.final-attacks": "fgsm"})
    assert "evaluate.final-examples = 10 draws images balanced over the classes: yak is 20 %" in caplog.text


def test_centralized_training_tells_it_too(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fedshield").addHandler(caplog.handler)
    caplog.set_level(logging.INFO, "fedshield")
    place = {"results__dir": str(tmp_path), "results__name": "one", "centralized__epochs": 1}
    train_centrally(tiny_config(**of_folder(folder, data__validation_fraction=0.4, **place)))
    # 0.4 × 207 is 83: 0.64 × 24 is 15.36, 0.64 × 3 is 1.92, and the others give 67.
    assert lines_of(caplog)[:2] == [
        "data.validation-fraction = 0.4 takes at most 64 % of a class: 15 of 24 emu, 1 of 3 yak; of other "
        "classes up to 23",
        "warning: fewer than 10 training images of a class: emu 9, yak 2; lower data.validation-fraction, or add "
        "images",
    ]
