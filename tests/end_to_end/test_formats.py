"""Run directories whose files are of another version, or damaged: one line that names the file, from every command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import FedShieldError
from server.evaluation import evaluate_run
from server.run_directory.index import rounds_before
from server.run_directory.reader import FEDERATION, parse_stored, read_config
from server.run_directory.writer import RunDir
from simulations.attack_images import attack_pictures
from simulations.cli.options import new_or_stored
from simulations.export.formats import export_run
from simulations.reports.compare import compare_runs
from simulations.reports.html.write import write_report
from tests.helpers.runs import run

RATE = {"value": 0.5, "interval": [0.4, 0.6]}
FIGURES = {"n": 9, "natural": RATE, "robust": {"fgsm": {"value": 0.5}}, "worst": RATE}

WHOLE = {"round": 2, "n": 9, "natural": RATE, "robust": {"fgsm": RATE}, "worst": RATE}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs"), "finished")


def resume(run_dir: Path) -> None:
    config = new_or_stored(None, ["federation.rounds=3"], None, None, run_dir, FEDERATION.name)
    rounds_before(config)
    RunDir.open(config).close()


COMMANDS: dict[str, Callable[[Path], object]] = {
    "report": write_report,
    "compare": lambda path: compare_runs([path.with_name("finished"), path]),
    "export": lambda path: export_run(path, "safetensors"),
    "evaluate": lambda path: evaluate_run(path, {"evaluate.final-examples": 10}),
    "attack": lambda path: attack_pictures(path, [], "fgsm", 8, None),
    "resume": resume,
}


@pytest.mark.parametrize(
    ("name", "content", "complaint", "commands"),
    [
        ("metrics.jsonl", {"number": 1}, "line 1: * (round: field required)", "report compare resume"),
        ("metrics.jsonl", {"round": 1, "evaluation": None}, "line 1: * (seconds: field", "report compare resume"),
        (
            "metrics.jsonl",
            {"round": 1, "seconds": 1.0, "evaluation": FIGURES},
            "line 1: * (evaluation.robust.fgsm.interval: field required)",
            "report compare resume",
        ),
        ("summary.json", {"final": {"accuracy": 0.5}}, "* (evaluated-round: field", "report compare export"),
        ("evaluations.jsonl", {"round": 2, "natural": 0.5}, "line 1: * (n: field", "report compare export"),
        ("evaluations.jsonl", {**WHOLE, "worst": None}, "line 1: * (attacks without a worst", "report compare export"),
        ("partition.json", {}, "* (classes: field required)", "report export evaluate attack"),
        ("partition.json", {"classes": 3, "clients": []}, "* (classes: input should be a valid list)", "attack export"),
        ("partition.json", {"classes": ["a"], "clients": [[1, 2]]}, "* (clients do not count 1 class", "evaluate"),
        ("environment.json", {"packages": None}, "* (packages: input should be a valid dict", "report compare export"),
        ("checkpoint/checkpoint.json", {"round": "x"}, "* (round: input should be", "export evaluate attack"),
        ("config.json", {"model": {"depth": 3}}, "* (unknown key model.depth", "export evaluate attack resume"),
    ],
)
def test_files_of_another_shape_are_named(
    finished: Path, tmp_path: Path, name: str, content: object, complaint: str, commands: str
) -> None:
    shutil.copytree(finished, tmp_path / "finished")
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / name).write_text(json.dumps(content) + "\n")
    for command in commands.split():
        with pytest.raises(FedShieldError) as caught:
            COMMANDS[command](copy)
        told = str(caught.value)
        begin, what = complaint.split("*")
        assert told.startswith(f"{copy / name}: {begin}damaged, or of another version of FedShield{what}"), command
        assert "\n" not in told
    assert not list((copy / "export").glob("*"))  # no model without its card


def test_a_model_that_does_not_fit_its_files_is_told(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    partition = json.loads((copy / "partition.json").read_text())
    (copy / "partition.json").write_text(json.dumps({**partition, "classes": ["a", "b"], "clients": [[1, 2]]}))
    for command in ("export", "attack"):
        with pytest.raises(FedShieldError, match="copy: its checkpoint belongs to another network than its"):
            COMMANDS[command](copy)
    with pytest.raises(FedShieldError, match=r"partition\.json: has other classes than the test images"):
        COMMANDS["evaluate"](copy)


def test_the_users_own_mistake_does_not_accuse_the_file(finished: Path) -> None:
    parse_stored(finished, read_config(finished))
    with pytest.raises(FedShieldError, match=r"^unknown key model\.depth \(options\)"):
        evaluate_run(finished, {"model.depth": 3})
