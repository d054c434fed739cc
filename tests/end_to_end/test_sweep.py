"""Sweeps as a user meets them: real processes, stopped from outside, several at a time, failing."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from common.config.flat import Flat
from common.errors import FedShieldError
from common.paths import ROOT
from server.run_directory.checkpoint import selected_model
from simulations.reports.study_tables import make_tables
from simulations.studies.sweep import run_study
from simulations.study_directory import read_labels, read_rounds
from simulations.terminal.console import Terminal
from tests.helpers.program import PROGRAM, fedshield, invoke
from tests.helpers.settings import TINY, lives, until

ROUNDS = 6
GRID = '[grid]\n"sharing.fraction" = [0.0, 0.4]\n'


def study_file(folder: Path, grid: str = GRID, head: str = "seeds = [1]", **changes: object) -> Path:
    settings: Flat = {**TINY, "federation.rounds": ROUNDS, "evaluate.every": 2}
    settings |= {key.replace("__", "."): value for key, value in changes.items()}  # type: ignore[misc]
    lines = [f'"{key}" = {json.dumps(value)}' for key, value in settings.items()]
    path = folder / "tiny.toml"
    path.write_text("\n".join([head, "[set]", *lines, grid]))
    return path


def numbers(study_dir: Path, *without: str) -> list[dict[str, Any]]:
    """Return results.csv without what differs from one sweep to the next, and without these columns."""
    with (study_dir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key not in ("seconds", "code", *without)} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A study file, its directory after an uninterrupted sweep of one run at a time, and what that printed."""
    folder = tmp_path_factory.mktemp("sweep")
    path = study_file(folder)
    done = invoke("sweep", str(path), "--results", "out", "--jobs", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return path, folder / "out", done.stdout


def test_a_sweep_tells_of_each_run_and_gathers_its_figures(whole: tuple[Path, Path, str]) -> None:
    _, out, output = whole
    lines = output.splitlines()
    assert lines[0] == f"Study: tiny: 2 runs, 0 of them finished: {out}"
    assert lines[2].startswith("[1/2] sharing.fraction=0.0-seed1  natural ")
    assert re.fullmatch(r"About .+ for 1 more run, 1 at a time, if each takes as long", lines[3])
    assert lines[4].startswith("[2/2] sharing.fraction=0.4-seed1  natural ")
    assert lines[4].endswith(" s")
    rows = numbers(out)
    assert [(row["run"], row["sharing.fraction"], row["seed"]) for row in rows] == [
        ("sharing.fraction=0.0-seed1", "0", "1"),
        ("sharing.fraction=0.4-seed1", "0.4", "1"),
    ]
    for row in rows:
        final = json.loads((out / "runs" / row["run"] / "summary.json").read_text())["final"]
        assert float(row["natural"]) == final["natural"]["value"]
        assert float(row["pgd-3"]) == final["robust"]["pgd-3"]["value"]
        assert (row["n"], row["rounds"], row["threads"]) == ("40", str(ROUNDS), "1")
        assert float(row["worst-client"]) == min(rate for rate in final["per-client"]["worst"] if rate is not None)
    # Both ways the model, to ten clients in every round; and once to each the shared images, with labels.
    alone, shared = ({key: float(row[f"megabytes-{key}"]) for key in ("sent", "received")} for row in rows)
    _, model = selected_model(out / "runs" / rows[0]["run"])
    received = 10 * ROUNDS * sum(array.nbytes for array in model.values()) / 10**6
    assert alone == {"sent": pytest.approx(received, abs=0.01), "received": pytest.approx(received, abs=0.01)}
    assert shared["received"] == alone["received"]
    assert shared["sent"] - alone["sent"] == pytest.approx(10 * 16 * (3 * 32 * 32 + 8) / 10**6, abs=0.01)
    rounds = read_rounds(out)
    assert [row["round"] for row in rounds] == ["2", "4", "6"] * 2
    assert all(row["pgd-2"] and row["loss"] for row in rounds)
    labels = read_labels(out)
    assert len(labels) == 2 * 10 * 10
    assert sum(int(row["images"]) for row in labels) == 2 * 160
    assert labels[0]["point"] == "sharing.fraction=0.0"


def test_finished_runs_are_passed_over(whole: tuple[Path, Path, str]) -> None:
    path, out, _ = whole
    before = (out / "results.csv").read_bytes()
    started = time.time()
    done = fedshield("sweep", str(path), "--results", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Study: tiny: 2 runs, 2 of them finished: {out}\nResults: {out}/results.csv")
    assert (out / "results.csv").read_bytes() == before
    assert all(summary.stat().st_mtime < started for summary in out.glob("runs/*/summary.json"))


def test_figures_that_are_missing_are_drawn_and_lost_rounds_told(whole: tuple[Path, Path, str], tmp_path: Path) -> None:
    path, out, _ = whole
    copy = shutil.copytree(out, tmp_path / "out")
    first, second = (copy / "runs" / f"sharing.fraction={share}-seed1" for share in ("0.0", "0.4"))
    shutil.rmtree(first / "figures")
    lines = (second / "metrics.jsonl").read_text().splitlines(keepends=True)
    (second / "metrics.jsonl").write_text("".join(lines[:-2]))
    done = invoke("sweep", str(path), "--results", str(copy))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:-1] == [
        f"Study: tiny: 2 runs, 2 of them finished: {copy}",
        f"Missing figures drawn: those of {first.name}",
        f"{second.name}: metrics.jsonl has no line for round {ROUNDS - 1} to {ROUNDS}: rounds.csv and its seconds "
        "do not cover the whole run",
    ]
    for file in (out / "runs" / first.name / "figures").iterdir():
        assert (first / "figures" / file.name).read_bytes() == file.read_bytes()


def test_what_a_later_evaluation_broke_counts_and_the_tables_say_so(
    whole: tuple[Path, Path, str], tmp_path: Path
) -> None:
    path, out, _ = whole
    copy = shutil.copytree(out, tmp_path / "out")
    before = numbers(copy)
    done = invoke("evaluate", str(copy / "runs" / before[0]["run"]), "--attacks", "pgd-3,pgd-40", "--examples", "20")
    assert done.returncode == 0, done.stderr
    done = invoke("sweep", str(path), "--results", str(copy))
    assert done.returncode == 0, done.stderr
    first, second = numbers(copy)
    assert second == before[1]
    assert first == {**before[0], "worst": first["worst"], "later-attacks": "pgd-40"}
    assert float(first["worst"]) <= float(before[0]["worst"])
    assert first["chance"] == "0.1"
    notes = make_tables(copy)[0].notes
    assert "chance: 10.0 % (always the most frequent class)" in notes
    told = "worst: 1 of 2 runs were evaluated again later, with pgd-40; what that broke of the same images counts"
    assert told in notes


def test_tables_and_figures_come_from_the_results_alone(whole: tuple[Path, Path, str], tmp_path: Path) -> None:
    _, out, _ = whole
    for name in ("results.csv", "rounds.csv", "labels.csv"):
        shutil.copy(out / name, tmp_path)
    done = invoke("tables", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"Tables: {tmp_path}/tables.md" in done.stdout
    assert "1,000 test images or fewer" in (tmp_path / "tables.md").read_text()
    assert list((tmp_path / "figures").glob("*.svg"))


def _children(process: int) -> list[int]:
    return [int(part) for part in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _rounds(out: Path) -> list[int]:
    """Return the last finished round of each run of a sweep."""
    return [json.loads(path.read_text())["round"] for path in out.glob("runs/*/checkpoint/checkpoint.json")]


def _start(path: Path, out: Path, beyond: int) -> subprocess.Popen[str]:
    """Start a sweep, and return it when both of its runs are beyond a round."""
    command = [PROGRAM, "sweep", str(path), "--results", str(out), "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: len([done for done in _rounds(out) if done > beyond]) == 2)
    return process


@pytest.mark.slow
def test_a_sweep_that_is_stopped_twice_goes_on_to_the_same_results(tmp_path: Path) -> None:
    path = study_file(tmp_path, federation__rounds=24)  # so many that it is stopped before the last, twice
    out, expected = tmp_path / "out", tmp_path / "expected"
    done = invoke("sweep", str(path), "--results", str(expected))
    assert done.returncode == 0, done.stderr
    process = _start(path, out, 0)
    children = _children(process.pid)
    process.send_signal(signal.SIGINT)
    told, complaint = process.communicate(timeout=300)
    assert process.returncode == 130
    assert told.splitlines()[-2:] == [
        "Stopping: waiting for checkpoints; Ctrl-C again kills the runs",
        "Stopped: 0 of 2 runs are finished; the same command continues",
    ]
    assert complaint == "fedshield: interrupted\n"
    assert len(children) == 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    process = _start(path, out, max(_rounds(out)))
    orphans = _children(process.pid)
    process.kill()
    process.communicate(timeout=300)
    assert len(orphans) == 2
    assert [row["natural"] for row in numbers(out)] == ["", ""]
    resumed = invoke("sweep", str(path), "--results", str(out), "--jobs", "2")  # waits for those left by the kill
    assert resumed.returncode == 0, resumed.stderr + resumed.stdout
    again = "megabytes-sent"  # a run that goes on sends the shared images again
    assert numbers(out, again) == numbers(expected, again)
    until(lambda: not any(map(lives, orphans)))
    for log in out.glob("runs/*.log"):  # nothing was done twice but what no checkpoint held
        assert log.read_text().count("round 1/") == 1
    with (out / "results.csv").open() as file:
        assert all(len(row["code"]) >= 12 for row in csv.DictReader(file))


def test_a_failed_run_is_told_and_does_not_stop_the_others(tmp_path: Path) -> None:
    grid = '[grid]\n"train.learning-rate" = [1e30, 0.05]'
    path = study_file(tmp_path, grid, 'command = "centralized"\nseeds = [5]', centralized__epochs=2)
    done = invoke("sweep", str(path), "--jobs", "2", cwd=tmp_path)
    assert done.returncode == 1
    out = tmp_path / "runs" / "tiny"
    told = "train.learning-rate=1e_30-seed5  failed: epoch 1: the training loss is "
    assert done.stdout.replace("+", "_").count(told) == 1
    assert done.stdout.count("failed: ") == 1
    assert done.stderr.startswith("fedshield: 1 of 2 runs failed; their logs: ")
    assert len(done.stderr.splitlines()) == 1
    failed, fine = numbers(out)
    assert failed["run"].startswith("train.learning-rate=1e+30")
    assert failed["why"].startswith("failed: epoch 1: the training loss is ")
    assert {key for key, cell in failed.items() if cell} == {"run", "train.learning-rate", "seed", "why"}
    assert (fine["run"], fine["seed"], fine["rounds"]) == ("train.learning-rate=0.05-seed5", "5", "2")
    assert (fine["used"], fine["available"], fine["test-images"], fine["why"]) == ("200", "4000", "1000", "")
    notes = make_tables(out)[0].notes
    assert "1 of 2 runs have figures; 1 of 2 points have them for all seeds" in notes
    assert f"no figures of {failed['train.learning-rate']}: {failed['why']}" in notes
    assert "training images of a run: 200 of 4,000 (data.max-examples)" in notes
    assert "test images of a run: 40 of 1,000 (evaluate.final-examples)" in notes
    assert read_labels(out) == []


READ = """
from pathlib import Path
from types import SimpleNamespace
from simulations.studies.gather import _lacking, note_failure
note_failure(Path(), "it", "L\\xe4ufe: not there")
print(ascii(_lacking(SimpleNamespace(name="it", varied={}, seed=1), Path())["why"]))
"""


def test_why_a_run_has_failed_is_read_as_it_was_written(tmp_path: Path) -> None:
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", READ]
    told = subprocess.check_output(command, cwd=tmp_path, env={**os.environ, **ascii_alone}, text=True, timeout=300)
    assert told == "'failed: L\\xe4ufe: not there'\n"


def test_a_study_of_partitions_trains_nothing(tmp_path: Path) -> None:
    grid = '[grid]\n"partition.scheme" = ["iid", "paper"]'
    path = study_file(tmp_path, grid, 'command = "partitions"\nseeds = [1, 2]', sharing__fraction=0.0)
    done = invoke("sweep", str(path), "--results", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    rows = numbers(tmp_path / "out")
    assert len(rows) == 4
    iid, paper = rows[:2]
    assert (iid["clients"], iid["images"], iid["smallest"], iid["largest"]) == ("10", "160", "16", "16")
    # Two classes of ten each, in equal parts: half the distance |0.5 - 0.1| × 2 + 0.1 × 8
    assert (paper["classes"], paper["distance"]) == ("2", "0.8")
    assert float(iid["distance"]) < 0.3
    assert len(read_labels(tmp_path / "out")) == 4 * 100
    assert not list(tmp_path.glob("out/runs/*/checkpoint"))
    for changes, expected in [
        ({"partition__classes-per-client": 3}, "was run with partition.classes-per-client = 2, the study has 3 now"),
        ({}, "out: its runs have command = 'partitions', the study has 'run' now; choose another --results"),
    ]:
        command = "partitions" if changes else "run"
        study_file(tmp_path, grid, f'command = "{command}"\nseeds = [1, 2]', sharing__fraction=0.0, **changes)
        before = (tmp_path / "out" / "results.csv").read_bytes()
        refused = invoke("sweep", str(path), "--results", "out", cwd=tmp_path)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert expected in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert (tmp_path / "out" / "results.csv").read_bytes() == before


def test_more_seeds_and_values_are_taken_and_fewer_refused(tmp_path: Path) -> None:
    def sweep(grid: str, seeds: list[int], *more: str) -> subprocess.CompletedProcess[str]:
        path = study_file(tmp_path, f'[grid]\n"partition.scheme" = {grid}', f'command = "partitions"\nseeds = {seeds}')
        return invoke("sweep", str(path), "--results", "out", *more, cwd=tmp_path)

    assert sweep('["iid"]', [1]).returncode == 0
    patient = sweep('["iid", "paper"]', [1, 2], "--set", "federation.node-wait-seconds=7")
    assert patient.returncode == 0, patient.stderr
    assert len(numbers(tmp_path / "out")) == 4
    for grid, seeds in (('["iid"]', [1, 2]), ('["iid", "paper"]', [2])):
        refused = sweep(grid, seeds)
        assert refused.returncode == 1
        assert (
            f"{tmp_path}/out: contains 2 finished runs not in this study, such as partition.scheme=" in refused.stderr
        )
        assert refused.stderr.endswith("; choose another --results\n")
        assert len(numbers(tmp_path / "out")) == 4
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.toml").write_text("seeds = [1]")
    path = study_file(tmp_path)
    refused = invoke("sweep", str(path), "--results", "other", cwd=tmp_path)
    assert "other: contains other files than a study's; choose another --results" in refused.stderr
    assert os.listdir(tmp_path / "other") == ["study.toml"]


def test_what_a_directory_holds_is_never_lost(whole: tuple[Path, Path, str], tmp_path: Path) -> None:
    path, out, _ = whole
    kept = tmp_path / "out"
    shutil.copytree(out, kept)

    def refused(*arguments: str) -> str:
        before = {file: file.read_bytes() for file in kept.rglob("*") if file.is_file() and file.name != ".lock"}
        done = invoke("sweep", str(path), "--results", *arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert all(file.read_bytes() == content for file, content in before.items())
        return done.stderr

    run = kept / "runs" / "sharing.fraction=0.0-seed1"
    assert f"{run}: was run with model.width = 2, the study has 3 now; delete the run directory, or choose" in refused(
        str(kept), "--set", "model.width=3"
    )
    assert f"{run}: was run with evaluate.final-examples = 40, the study has 20 now" in refused(
        str(kept), "--set", "evaluate.final-examples=20"
    )
    with FileLock(kept / ".lock"):
        assert f"{kept}: another sweep runs this study; wait for it to end" in refused(str(kept))
    assert f"{run}: contains other files than a study's; choose another --results" in refused(str(run))
    config = (run / "config.json").read_text()
    (run / "config.json").write_text("[]")
    assert f"{run}/config.json: damaged (not a JSON object); delete the run directory" in refused(str(kept))
    (run / "config.json").unlink()
    assert f"{run}: damaged (no config.json); delete the run directory, and run the sweep again" in refused(str(kept))
    (run / "config.json").write_text(config)
    summary = (run / "summary.json").read_text()
    (run / "summary.json").write_text("{}")
    assert f"{run}/summary.json: damaged; delete the run directory, and run the sweep again" in refused(str(kept))
    (run / "summary.json").write_text(summary)
    (kept / "results.csv").write_text("epoch,loss\n1,2\n")
    assert (
        f"{kept}/results.csv: not a results file of FedShield (no column run); move it away: it is then rebuilt "
        "from the runs\n"
    ) in refused(str(kept))
    told = invoke("tables", str(kept))
    assert told.returncode == 1
    assert told.stderr.startswith(f"fedshield: {kept}/results.csv: not a results file of FedShield (no column run)")
    assert "Traceback" not in told.stderr


def test_a_mistake_in_the_study_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    path = study_file(tmp_path, '[grid]\n"sharing.fraction" = []')
    done = invoke("sweep", str(path), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"fedshield: {path}: grid.sharing.fraction = []: write a list with at least one value\n")
    assert os.listdir(tmp_path) == ["tiny.toml"]


def test_missing_data_is_found_before_anything_starts(tmp_path: Path) -> None:
    path = study_file(tmp_path, data__name="folder", data__root="gone")
    done = invoke("sweep", str(path), "--results", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{tmp_path}/gone/train" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "out" / "runs").iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(whole: tuple[Path, Path, str], tmp_path: Path) -> None:
    # Root may write where the mode forbids it: folders in the place of the files serve all users.
    path, out, _ = whole
    for name in ("results.csv", "rounds.csv", "labels.csv"):
        shutil.copy(out / name, tmp_path)
    (tmp_path / "tables.md").mkdir()
    done = invoke("tables", str(tmp_path))
    assert done.returncode == 1
    assert "natural %" in done.stdout
    assert done.stderr.startswith(f"fedshield: {tmp_path}/tables.md: ")
    assert len(done.stderr.splitlines()) == 1
    (tmp_path / "out" / ".lock").mkdir(parents=True)
    done = invoke("sweep", str(path), "--results", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"fedshield: {tmp_path}/out: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_run_that_an_orphan_has_finished_is_not_started(whole: tuple[Path, Path, str], tmp_path: Path) -> None:
    path, out, _ = whole
    kept = tmp_path / "out"
    shutil.copytree(out, kept)
    run = kept / "runs" / "sharing.fraction=0.0-seed1"
    (run / "summary.json").rename(tmp_path / "summary.json")
    # The run of a killed sweep holds its lock, and writes its summary at the very end.
    with FileLock(run / ".lock"):
        command = [PROGRAM, "sweep", str(path), "--results", str(kept)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(5)
        assert process.poll() is None
        (tmp_path / "summary.json").rename(run / "summary.json")
    told, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    assert told.startswith(f"Study: tiny: 2 runs, 2 of them finished: {kept}\n")
    assert numbers(kept) == numbers(out)


OWN = """
import torch
from torch import nn
import torch.nn.functional as F

def network(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, classes))

def narrow(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))

def loss(model, context):
    return lambda images, labels: F.cross_entropy(model(images), labels)

def no_scalar(model, context):
    return lambda images, labels: model(images)

def attack(model, threat, classes):
    return lambda images, labels: images

def far(model, threat, classes):
    return lambda images, labels: 1 - images
"""


@pytest.mark.parametrize(
    ("key", "values", "told"),
    [
        ("loss.name", ["own.py:loss", "own.py:los"], "loss.name = own.py:los: * has no function los; it has "),
        (
            "loss.name",
            ["own.py:loss", "own.py:no_scalar"],
            "loss.name = own.py:no_scalar: must return the batch's loss",
        ),
        (
            "model.name",
            ["own.py:network", "own.py:narrow"],
            "model.name = own.py:narrow: in eval mode returns (2, 2) for 2",
        ),
        ("model.name", ["cnn", "torchvision:resnet5"], "torchvision has no such classifier; did you mean resnet50"),
        ("attack.name", ["own.py:attack", "own.py:far"], "attack.name = own.py:far: "),
        ("attack.name", ["own.py:attack", "gone.py:attack"], "attack.name = gone.py:attack: no file "),
        ("evaluate.attacks", ["own.py:attack-1", "own.py:far-1"], "own.py:far: "),
        ("evaluate.final-attacks", ["own.py:attack", "own.py:tack"], "evaluate.final-attacks = own.py:tack: "),
        ("strategy.name", ["fedavg", "bulyan"], "strategy.malicious = 3: "),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value[:12] else "",
)
def test_a_point_that_cannot_run_is_found_before_the_first_one_starts(
    tmp_path: Path, key: str, values: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    changes = {"strategy__malicious": 3} if key == "strategy.name" else {}
    path = study_file(tmp_path, f'[grid]\n"{key}" = {json.dumps(values)}\n', "seeds = [1, 2]", **changes)
    with pytest.raises(FedShieldError) as caught:
        run_study(path, {}, tmp_path / "out", 1, Terminal())
    before, _, after = told.partition("*")
    assert str(caught.value).startswith("study tiny, run ")
    assert before in str(caught.value)
    assert after in str(caught.value)
    assert not any((tmp_path / "out" / "runs").iterdir())
