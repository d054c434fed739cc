"""``fedshield verify``: honest results pass on the figures that they state, changed ones are named."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from common.errors import FedShieldError
from simulations.studies.sweep import run_study
from simulations.terminal.console import Terminal
from simulations.verify import verify
from tests.helpers.program import invoke
from tests.helpers.settings import TINY

pytestmark = pytest.mark.usefixtures("one_thread")

STUDY = """title = "t"
seeds = [1]
reference = { "sharing.fraction" = 0.0 }
[set]
"train.learning-rate" = 0.1
"attack.name" = "none"
[grid]
"sharing.fraction" = [0.0, 0.4]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "s.toml").write_text(STUDY)
    run_study(folder / "s.toml", {**TINY, "evaluate.final-attacks": "fgsm,pgd-2"}, folder / "study", 1, Terminal())
    return folder / "study"


@pytest.fixture
def study(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "study"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_honest_results_pass_and_nothing_is_written(study: Path) -> None:
    before = contents(study)
    found = verify(study, {}, 0.0)
    assert found.wrong == ()
    assert [row[1] for row in found.sheet.rows] == ["natural", "fgsm", "pgd-2", "worst"] * 2
    assert {row[4] for row in found.sheet.rows} == {"+0.0"}
    assert contents(study) == before


def test_a_figure_that_was_changed_is_named_and_so_is_the_file(study: Path) -> None:
    path = study / "results.csv"
    rows = list(csv.DictReader(path.open()))
    honest = float(rows[1]["pgd-2"])
    rows[1]["pgd-2"] = str(honest + 0.1)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done = invoke("verify", str(study))
    assert done.returncode == 1
    told = f"results.csv: {rows[1]['run']}: pgd-2 {100 * honest + 10:.1f} % is claimed, {100 * honest:.1f} % is found"
    assert told in done.stderr.replace("\n", "")
    assert "7 of 8 figures are within 0.5 points" in " ".join(done.stdout.split())
    assert verify(study, {}, 10.0).wrong == ()


def test_a_model_that_was_exchanged_is_refused(study: Path) -> None:
    one, other = sorted(study.glob("runs/*/checkpoint"))
    name = json.loads((one / "checkpoint.json").read_text())["model"]
    shutil.copy(other / name, one / name)
    with pytest.raises(FedShieldError, match="SHA-256"):
        verify(study, {}, 0.5)


def test_what_cannot_be_verified_is_one_line(study: Path) -> None:
    run = sorted(study.glob("runs/*/config.json"))[0].parent
    assert verify(run, {}, 0.0).wrong == ()
    summary = json.loads((run / "summary.json").read_text())
    summary["final"]["n"] += 1
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(FedShieldError, match=r"test images are claimed, .* are there; give the same data"):
        verify(run, {}, 0.5)
    (run / "summary.json").unlink()
    with pytest.raises(FedShieldError, match="has no final evaluation that could be verified; finish the run first"):
        verify(run, {}, 0.5)
    shutil.rmtree(run)
    with pytest.raises(FedShieldError, match="not there; a row is verified with its run directory"):
        verify(study, {}, 0.5)
