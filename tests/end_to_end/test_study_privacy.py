"""``fedshield privacy`` for the runs of a study: its columns, tables and figures."""

import csv
import json
from pathlib import Path

import pytest

from common.errors import FedShieldError
from server.membership import measure_privacy
from server.run_directory.privacy import read_privacy
from simulations.reports.figures.study_figures import study_figures
from simulations.reports.study_privacy import privacy_sheets
from simulations.studies.membership import measure_study
from simulations.studies.sweep import run_study
from simulations.study_directory import read_results
from simulations.terminal.console import Terminal
from tests.helpers.program import invoke
from tests.helpers.settings import TINY

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_study_has_its_areas_as_columns(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('title = "t"\nseeds = [1]\n[grid]\n"sharing.fraction" = [0.0, 1.0]\n')
    settings = {**TINY, "federation.rounds": 1, "attack.name": "none", "evaluate.final-attacks": ""}

    def rows() -> list[dict[str, str]]:
        run_study(tmp_path / "s.toml", settings, tmp_path / "study", 1, Terminal())
        return list(csv.DictReader((tmp_path / "study" / "results.csv").open()))

    assert not {"auc-pool", "auc-clients"} & rows()[0].keys()
    paths = sorted(path for path in (tmp_path / "study" / "runs").iterdir() if path.is_dir())
    record, _ = measure_privacy(paths[1], {}, examples=20, shadows=0)
    without, measured = rows()
    assert (without["auc-pool"], without["auc-clients"]) == ("", "")
    for name in ("pool", "clients"):
        assert float(measured[f"auc-{name}"]) == pytest.approx(record["groups"][name]["auc"], rel=1e-5)


def test_one_command_measures_all_runs_of_a_study_and_keeps_what_was_measured(tmp_path: Path) -> None:
    text = 'title = "t"\nseeds = [1]\n[grid]\n"privacy.noise-multiplier" = [0.0, 3.0]\n'
    (tmp_path / "s.toml").write_text(text)
    settings = {**TINY, "federation.rounds": 1, "attack.name": "none", "evaluate.final-attacks": "fgsm"}
    folder = tmp_path / "study"
    with pytest.raises(FedShieldError, match=r"study\.toml"):
        measure_study(tmp_path, {}, 20, 0)
    run_study(tmp_path / "s.toml", settings, folder, 1, Terminal())
    invoke("privacy", str(folder), "--shadows", "0", "--examples", "20")
    rows = read_results(folder)
    records = [read_privacy(folder / "runs" / row["run"]) for row in rows]
    assert [float(row["auc-pool"]) for row in rows] == [
        pytest.approx(record["groups"]["pool"]["auc"], rel=1e-5) for record in records
    ]
    assert rows[0]["epsilon"] == ""
    summary = json.loads((folder / "runs" / rows[1]["run"] / "summary.json").read_text())
    assert float(rows[1]["epsilon"]) == pytest.approx(summary["privacy"]["epsilon"], rel=1e-5)
    measure_study(folder, {}, 20, 0)
    assert [read_privacy(folder / "runs" / row["run"]) for row in rows] == records
    path = folder / "runs" / rows[1]["run"] / "privacy.json"
    path.write_text(json.dumps({**records[1], "sha256": "0" * 64}))  # of another model
    measure_study(folder, {}, 20, 0)
    again = [read_privacy(folder / "runs" / row["run"]) for row in rows]
    assert again[0] == records[0]
    assert {**again[1], "at": ""} == {**records[1], "at": ""}
    (sheet,) = privacy_sheets(rows)
    assert list(sheet.header)[1:] == ["AUC, images of the pool", "AUC, the clients' images", "epsilon"]
    assert sheet.rows[0][3] == "–"
    drawn = study_figures(folder)
    assert {"privacy", "epsilon"} <= drawn.keys()
    assert [len(drawn[name].panels) for name in ("privacy", "epsilon")] == [4, 2]
    assert "1 of 2 points have an epsilon" in drawn["epsilon"].caption
