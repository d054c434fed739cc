"""Without an attack there is no robust accuracy, and no adversarial training, whoever tells of the model."""

import shutil
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from server.evaluation import RunEvaluation, evaluate_run
from server.monitoring.trackers import figures
from server.run_directory.reader import read_metrics
from simulations.cli.tables import evaluation_tables
from simulations.export.formats import export_run
from simulations.reports.compare import compare_runs
from simulations.reports.headline import training
from simulations.reports.html.write import write_report
from simulations.terminal.live_view import LiveView
from tests.helpers.runs import run

NOT_MEASURED = "no attack was run: robust accuracy was not measured"


@pytest.fixture(scope="module")
def unattacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunEvaluation]:
    changes = {"attack__name": "none", "evaluate__attacks": "", "evaluate__final_attacks": ""}
    path = run(tmp_path_factory.mktemp("runs"), "unattacked", **changes)
    return path, evaluate_run(path, {})


def test_natural_accuracy_is_not_sold_as_robust(unattacked: tuple[Path, RunEvaluation], tmp_path: Path) -> None:
    path, found = unattacked
    assert found.evaluation.worst is None
    assert found.record["worst"] is None
    assert set(found.record["per-class"]) == {"natural"}
    console = Console(width=120, record=True, file=StringIO())
    for table in evaluation_tables(found.evaluation, found.record):
        console.print(table)
    card = export_run(path, "safetensors")[1].read_text()
    for text in (console.export_text(), card.replace("No attack", "no attack")):
        assert NOT_MEASURED in " ".join(text.split())
        assert "worst" not in text
        assert "hite-box" not in text
    report = write_report(path).read_text()
    assert NOT_MEASURED in report
    assert "<td>worst case" not in report
    _, results, _ = compare_runs([path, shutil.copytree(path, tmp_path / "again")])
    assert results.rows[0][-1] == "–"
    assert f"{path.name}: {NOT_MEASURED}" in results.notes


def test_training_without_an_attack_is_called_so(unattacked: tuple[Path, RunEvaluation]) -> None:
    path, _ = unattacked
    card, report = export_run(path, "safetensors")[1].read_text(), write_report(path).read_text()
    for text in (card.replace("`cnn` (relu): natural", "Natural"), report):
        assert "Natural (standard) training, without an attack" in text
        assert "dversarial training" not in text
    own = {"loss.name": "mine.py:loss", "attack.name": "none"}
    assert training(own) == "training with mine.py:loss"  # which may attack by itself


def test_those_who_watch_are_told_of_natural_accuracy_alone(unattacked: tuple[Path, RunEvaluation]) -> None:
    line = read_metrics(unattacked[0])[-1]
    assert {name for name in figures(line) if "accuracy" in name} == {"natural-accuracy"}
    console = Console(width=120, record=True, file=StringIO())
    view = LiveView(console, "round", 2, 0, "", 10)
    view.figures(line)
    console.print(view)
    assert "natural accuracy" in console.export_text()
    assert "robust" not in console.export_text()
