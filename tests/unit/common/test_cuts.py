"""Wherever a limit leaves out images, that is said: in log, report, card, ``compare`` and ``split-data``."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from common.config.flat import default_config
from common.factory import prepare_data, server_data
from server.run_directory.writer import RunDir
from simulations.centralized import train_centrally
from simulations.cli.main import app
from simulations.export.formats import export_run
from simulations.reports.compare import compare_runs
from simulations.reports.html.run_page import run_page
from tests.helpers.runs import run
from tests.helpers.settings import tiny_config

EACH = 801  # images of a class: more, in two classes, than the quickstart takes of its own data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a user's own, with 1,602 training images."""
    root, rng = tmp_path_factory.mktemp("own") / "pets", np.random.default_rng(1)
    for part, count in (("train", EACH), ("test", 30)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def of_folder(folder: Path) -> dict[str, object]:
    data = {"data__name": "folder", "data__root": str(folder), "data__image_size": 16, "partition__scheme": "iid"}
    return {**data, "federation__clients": 2, "federation__rounds": 1}


def test_all_images_of_ones_own_are_used_and_the_quickstarts_own_are_cut(folder: Path) -> None:
    by_default = default_config()["data.max-examples"]
    own = server_data(tiny_config(**of_folder(folder), data__max_examples=by_default)).described_partition
    assert (own["used"], own["available"], own["test"]) == (2 * EACH, 2 * EACH, [30, 30])
    quick = [prepare_data(tiny_config(data__max_examples=count))[1] for count in (by_default, 1500)]
    assert sum(map(len, (*quick[0].shards, quick[0].pool))) == 1500
    for first, second in zip(*(division.shards for division in quick), strict=True):
        assert np.array_equal(first, second)


def test_what_a_limit_leaves_out_is_said_wherever_figures_are_read(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("fedshield")
    log.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO, "fedshield"):
            cut = run(tmp_path, "cut", **of_folder(folder), data__max_examples=1000, evaluate__final_examples=50)
            whole = run(tmp_path, "whole", **of_folder(folder), data__max_examples=0, evaluate__final_examples=0)
    finally:
        log.removeHandler(caplog.handler)
    told = dict.fromkeys(line for line in caplog.messages if line.startswith("Images: "))
    assert list(told) == [
        "Images: training 1,000 of 1,602 (data.max-examples), shared 80 of 200 (sharing.fraction), "
        "test 40 of 60 (evaluate.examples), final test 50 of 60 (evaluate.final-examples)",
        "Images: training all 1,602, shared 128 of 320 (sharing.fraction), test 40 of 60 (evaluate.examples), "
        "final test all 60",
    ]
    assert " on pets (1,000 of 1,602 training images): 2 clients" in run_page(cut).lead
    facts = {fact.label: fact.value for fact in run_page(cut).facts}
    assert (facts["training images"], facts["test images"]) == ("1,000 of 1,602", "n = 50 of 60")
    facts = {fact.label: fact.value for fact in run_page(whole).facts}
    assert (facts["training images"], facts["test images"]) == ("all 1,602", "n = 60")
    card = export_run(cut, "safetensors")[1].read_text()
    assert "on pets (1,000 of 1,602 training images), seed 1" in card
    assert "## Accuracy on n = 50 of 60 test images" in card
    settings, results, _ = compare_runs([cut, whole])
    assert ["training images", "1,000 of 1,602", "all 1,602"] in settings.rows
    assert [row[1] for row in results.rows] == ["50 of 60", "60"]
    assert "cut: trained on 1,000 of 1,602 images (data.max-examples)" in results.notes


def test_one_party_alone_tells_what_it_leaves_out(tmp_path: Path) -> None:
    config = tiny_config(results__dir=str(tmp_path), results__name="one", centralized__epochs=1)
    division = json.loads((train_centrally(config) / "partition.json").read_text())
    assert (division["used"], division["available"], sum(division["test"])) == (200, 4000, 1000)


def test_a_division_says_how_many_images_go_to_nobody_and_a_run_on_it_knows(folder: Path, tmp_path: Path) -> None:
    options = {key.replace("__", ".").replace("_", "-"): value for key, value in of_folder(folder).items()}
    given = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    given += ["--set", f"results.dir={tmp_path}"]

    def lines(*command: str) -> list[str]:
        done = CliRunner().invoke(app, [*command, *given])
        assert done.exit_code == 0, done.output
        return done.output.splitlines()

    assert "Training images: all 1,602 are divided" in lines("split-data", "--out", str(tmp_path / "all"))
    cut = "--set", "data.max-examples=1000"
    left = "Training images: 1,000 of 1,602 are divided; 602 go to nobody (data.max-examples=0 divides all)"
    assert left in lines("split-data", *cut, "--out", str(tmp_path / "some"))
    place = {"data__name": "split", "data__root": str(tmp_path / "some")}
    held = server_data(tiny_config(**{**of_folder(folder), **place})).described_partition
    assert (held["used"], held["available"]) == (1000, 1602)
    shown = CliRunner().invoke(app, ["partitions", *cut, *given]).output
    assert "training images by class, 1,000 of 1,602 (data.max-examples)" in " ".join(shown.split())


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """It kept 1500 for today's -1, and of the images only those that somebody has."""
    begun = tiny_config(results__dir=str(tmp_path), results__name="run", data__max_examples=1500)
    described = server_data(begun).described_partition
    before = {key: value for key, value in described.items() if key not in ("used", "available", "test")}
    with RunDir.open(begun) as old:
        old.write_partition(before)
        old.append_metrics({"round": 1, "seconds": 1.0, "evaluation": None})
        old.save_checkpoint(1, {})
    now = tiny_config(results__resume=str(tmp_path / "run"), data__max_examples=-1)
    with RunDir.open(now) as again:
        assert again.completed_rounds == 1
        again.write_partition(described)
    assert json.loads((tmp_path / "run" / "partition.json").read_text())["available"] == 4000
