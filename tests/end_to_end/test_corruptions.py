"""Common corruptions and calibration, through the commands: measured, kept, and shown everywhere."""

import json
import re
from pathlib import Path

import pytest

from server.run_directory.reader import read_evaluations
from tests.helpers.program import invoke, tiny_options

KINDS = "gaussian-noise,jpeg"


def told(folder: Path, *arguments: str) -> str:
    done = invoke(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_corruptions_and_calibration_are_shown(tmp_path: Path) -> None:
    options = *tiny_options(federation__rounds=1), "--engine", "inprocess"
    trained = told(tmp_path, "run", *options, "--name", "one")
    final = json.loads((tmp_path / "runs" / "one" / "summary.json").read_text())["final"]
    error = f"{100 * final['calibration']['ece']:.1f} %"
    assert f"n = 40  ECE {error}" in trained

    printed = told(tmp_path, "evaluate", "one", "--corruptions", KINDS)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("[gj]*-[1-5].npz")}
    assert len(kept) == 10
    again = told(tmp_path, "evaluate", "one", "--corruptions", "jpeg")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("[gj]*-[1-5].npz")} == kept
    first, second = read_evaluations(tmp_path / "runs" / "one")
    found = first["corruptions"]
    assert list(found["kinds"]) == KINDS.split(",")
    assert second["corruptions"]["kinds"] == {"jpeg": found["kinds"]["jpeg"]}
    cells = [cell["value"] for own in found["kinds"].values() for cell in own["severities"]]
    assert abs(found["mean"]["value"] - sum(cells) / 10) < 1e-9

    mean = f"{100 * found['mean']['value']:.1f}"
    low, high = (f"{100 * end:.1f}" for end in found["mean"]["interval"])
    row = rf"mean corruption accuracy +(\S+ +){{5}}{re.escape(mean)} +\[{low}, {high}\]"
    assert re.search(row, printed)
    assert "mean corruption accuracy" not in again
    assert f"calibration error (ECE, 15 bins): {error}" in printed

    told(tmp_path, "report", "one")
    told(tmp_path, "export", "one")
    page = (tmp_path / "runs" / "one" / "report.html").read_text()
    card = (tmp_path / "runs" / "one" / "export" / "README.md").read_text()
    for shown in (page, card):  # one kind, looked at later, does not hide the two
        assert "Accuracy under common corruptions, in per cent, n = 40 test images" in shown
        assert all(each in shown for each in ("gaussian-noise", "mean corruption accuracy", f"[{low}, {high}]", error))

    told(tmp_path, "run", *options, "--set", "seed=2", "--name", "two")
    compared = told(tmp_path, "compare", "one", "two")
    assert f"one: calibration error (ECE, 15 bins): {error}" in compared
    assert "one: corrupted: mean over five severities of gaussian-noise, jpeg, on n = 40" in compared
    assert re.search(rf"^ one .* {re.escape(mean)} *$", compared, re.MULTILINE)
    assert re.search(r"^ two .* – *$", compared, re.MULTILINE)


def test_an_unknown_corruption_is_one_line(tmp_path: Path) -> None:
    done = invoke("evaluate", "nothing", "--corruptions", "jpg,fog", cwd=tmp_path)
    assert done.returncode == 1
    assert "--corruptions jpg,fog: jpg is not known; write all, or some of gaussian-noise, " in done.stderr
    assert "did you mean jpeg?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--corruptions", "--corruptions: names none; write all, or some of gaussian-noise, shot-noise, "),
        ("--epsilons", "--epsilons (none): write numbers from 0 to 255 "),
    ],
)
def test_an_empty_list_is_one_line(tmp_path: Path, option: str, told: str) -> None:
    done = invoke("evaluate", "nothing", option, "", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert told in done.stderr
