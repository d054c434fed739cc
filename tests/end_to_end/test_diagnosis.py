"""Runs that are diagnosed: the same bits, the same diagnoses when they go on, and where these are shown."""

import json
import logging
from pathlib import Path
from urllib.request import urlopen

import pytest
from rich.console import Console

from server.diagnosis.judge import stored, suspects
from server.monitoring.prometheus import Exporter
from server.run_directory.reader import read_metrics
from simulations.centralized import train_centrally
from simulations.engine.byzantine import ByzantineExecutor
from simulations.engine.executor import InProcess
from simulations.engine.process_executor import Processes
from simulations.replay import replay
from simulations.reports.html.run_page import run_page
from simulations.terminal.live_view import LiveView
from tests.helpers.processes import free_ports
from tests.helpers.program import invoke
from tests.helpers.runs import figures, run, run_in_parts, run_with, same, weights
from tests.helpers.settings import tiny_config

TROUBLE = {
    **{"name": "collapse", "severity": "severe", "evidence": "class 3 is predicted for 97 %", "since-round": 2},
    "clean-rounds": 0,
}


def told(run_dir: Path) -> list[tuple]:
    return [(line["signals"], line["diagnoses"]) for line in read_metrics(run_dir)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs"), "whole", federation__rounds=3)


def test_a_run_has_the_same_bits_without_diagnosis(whole: Path, tmp_path: Path) -> None:
    without = run(tmp_path, "without", federation__rounds=3, diagnosis__enabled=False)
    assert figures(without) == figures(whole)
    assert same(weights(without), weights(whole))
    assert all({"signals", "diagnoses", "distrusted"}.isdisjoint(line) for line in read_metrics(without))
    signals = read_metrics(whole)[0]["signals"]
    assert signals["n"] == sum(signals["class-examples"]) == 24  # 40 of the pool, of which 16 are sent
    assert set(signals["cosines"]) == set(signals["pool-cosines"]) == set(map(str, range(10)))


def test_a_run_that_is_resumed_has_the_same_diagnoses(whole: Path, tmp_path: Path) -> None:
    part = run_in_parts(tmp_path, lambda reply: reply.server_round == 3 and reply.answered == 4, federation__rounds=3)
    assert told(part) == told(whole)


def test_workers_give_the_same_signals(whole: Path, tmp_path: Path) -> None:
    path = run_with(Processes, tmp_path, "workers", federation__rounds=3)
    assert told(path) == told(whole)


def test_a_liar_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # With the tiny run's sixteen images each, honest clients agree on nothing.
    more = {"data__max_examples": 600, "partition__scheme": "iid", "model__width": 4, "federation__rounds": 3}
    changes = {**more, "byzantine__clients": 1, "evaluate__final_attacks": ""}
    liars = ByzantineExecutor(InProcess(), tiny_config(**changes))
    with caplog.at_level(logging.WARNING, "fedshield"):
        path = run(tmp_path, "liar", liars, **changes)
    last = read_metrics(path)[-1]
    (liar,) = suspects(stored(last))
    assert last["signals"]["cosines"][str(liar)] == min(last["signals"]["cosines"].values())
    begins = [line for line in caplog.messages if "harmful-client begins (severe)" in line]
    assert len(begins) == 1
    assert f"client {liar}: cosine -" in begins[0]


def test_what_cannot_be_judged_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fedshield"):
        path = run(tmp_path, "all-sent", federation__rounds=1, sharing__fraction=1.0)
    (line,) = [line for line in caplog.messages if line.startswith("diagnosis:")]
    assert "no images are held out; set data.validation-fraction above 0, or sharing.fraction below 1" in line
    assert line.endswith("collapse, masked-gradients, lost-class")
    assert set(read_metrics(path)[0]["signals"]) == {"cosines", "dispersion"}


def test_parts_that_stay_with_clients_make_no_global_model_to_judge(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fedshield"):
        path = run(tmp_path, "fedper", federation__rounds=1, method__name="fedper")
    assert any(line.startswith("diagnosis: method.name = fedper") for line in caplog.messages)
    assert "natural" not in read_metrics(path)[0]["signals"]


def test_centralized_training_is_judged_on_validation_images(tmp_path: Path) -> None:
    changes = {"centralized__epochs": 1, "data__validation_fraction": 0.1, "results__dir": str(tmp_path)}
    (line,) = read_metrics(train_centrally(tiny_config(**changes)))
    assert line["signals"]["n"] == 20
    assert "cosines" not in line["signals"]


def test_replay_tells_what_was_judged(whole: Path, tmp_path: Path) -> None:
    lines = [*replay(whole)]
    assert [line.split("  ")[0] for line in lines if not line.startswith(" ")] == ["round 1", "round 2", "round 3"]
    (old := tmp_path / "old").mkdir()
    for name in ("config.json", "environment.json", "partition.json"):
        (old / name).write_bytes((whole / name).read_bytes())
    kept = [{k: v for k, v in line.items() if k not in ("signals", "diagnoses")} for line in read_metrics(whole)]
    (old / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    done = invoke("replay", old)
    assert done.returncode == 1
    assert done.stderr == (
        f"fedshield: {old}/metrics.jsonl: has no signals to judge; a run stores them with diagnosis.enabled=true\n"
    )


def with_trouble(run_dir: Path, copy: Path) -> Path:
    """A copy of a run that had a trouble in its last two rounds."""
    copy.mkdir()
    for name in ("config.json", "environment.json", "partition.json"):
        (copy / name).write_bytes((run_dir / name).read_bytes())
    lines = [{**line, "diagnoses": [TROUBLE] if line["round"] > 1 else []} for line in read_metrics(run_dir)]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return copy


def test_the_report_has_a_timeline_above_the_curves(whole: Path, tmp_path: Path) -> None:
    page = run_page(with_trouble(whole, tmp_path / "troubled"))
    titles = [section.title for section in page.sections]
    assert titles.index("Troubles of training") + 1 == titles.index("Accuracy over rounds")
    chart, table = page.sections[titles.index("Troubles of training")].blocks
    (rows,) = chart.spec["datasets"].values()  # type: ignore[union-attr]
    assert [(row["round"], row["trouble"], row["severity"]) for row in rows] == [
        (2, "collapse", "severe"),
        (3, "collapse", "severe"),
    ]
    assert table.rows == [["collapse", "severe", TROUBLE["evidence"], "2 to 3"]]  # type: ignore[union-attr]
    replayed = [*replay(tmp_path / "troubled")]
    assert replayed[-1] == "During the run, other troubles were told in round 2, 3: by other rules."


def test_prometheus_and_the_live_view_show_a_trouble(whole: Path) -> None:
    line = {**read_metrics(whole)[-1], "diagnoses": [TROUBLE]}
    (port,) = free_ports(1)
    Exporter(port, "127.0.0.1").after_round(line)
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        text = page.read().decode()
    assert 'fedshield_trouble{trouble="collapse"} 2.0' in text
    assert 'fedshield_trouble{trouble="lost-class"} 0.0' in text
    console = Console(width=120)
    view = LiveView(console, "round", 3, 0, "first")
    view.figures(line)
    with console.capture() as shown:
        console.print(view)
    assert "collapse (severe, since round 2)" in shown.get()
