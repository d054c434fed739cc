"""A run that goes on keeps what it began with; and the commands that reports and cards show are run, and repeat it."""

import json
import logging
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from common.config.flat import default_config
from common.machine import available_cores, fitting_precision
from server.run_directory.reader import (
    CENTRALIZED,
    DEPLOYED,
    FEDERATION,
    Kind,
    read_config,
    read_environment,
    read_kind,
)
from server.run_directory.writer import RunDir
from simulations.centralized import train_centrally
from simulations.cli.main import app
from simulations.cli.options import given
from simulations.export.formats import export_run
from simulations.federation import run_locally
from simulations.reports.html.page import Code, Page, Text
from simulations.reports.html.run_page import run_page
from simulations.reports.html.study_page import study_page
from simulations.reports.repeat import sweep_again
from simulations.terminal.console import Terminal
from tests.helpers.runs import figures, run, same, weights
from tests.helpers.settings import tiny_config
from tests.unit.simulations.test_study import results


def words(page: Page, kind: type[Code] | type[Text]) -> list[str]:
    """Return the commands, or the paragraphs, of the section that says how a run is repeated."""
    (section,) = (section for section in page.sections if "repeats it" in section.title)
    return [block.text for block in section.blocks if isinstance(block, kind)]


def elsewhere(path: Path, **changes: object) -> None:
    """Make a run look as if it had begun on another machine."""
    content = json.loads((path / "environment.json").read_text())
    (path / "environment.json").write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize("alone", [False, True])
def test_a_run_goes_on_with_the_threads_it_began_with(tmp_path: Path, alone: bool) -> None:
    first = available_cores() + 1
    key = "centralized__epochs" if alone else "federation__rounds"
    begun = tiny_config(results__dir=str(tmp_path), results__name="run", threads=0, **{key: 1})
    longer = tiny_config(results__resume=str(tmp_path / "run"), threads=0, **{key: 2})
    go = train_centrally if alone else lambda config: run_locally(config, "inprocess", None, None, Terminal())
    path = go(begun)
    elsewhere(path, threads=first)
    go(longer)
    assert torch.get_num_threads() == first
    torch.set_num_threads(1)
    found = read_environment(path)
    assert found["threads"] == first
    assert [each["after"] for each in found["resumed"]] == [1]
    assert read_config(path)["threads"] == 0  # what the user said; another number than the first is refused
    assert f"--set threads={first}" in words(run_page(path), Code)[0]


@pytest.mark.parametrize("alone", [False, True])
def test_a_run_goes_on_with_the_precision_it_began_with(
    tmp_path: Path, alone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    here = fitting_precision()
    other = {"train": "bfloat16", "bfloat16": "train"}[here]
    key = "centralized__epochs" if alone else "federation__rounds"
    go = train_centrally if alone else lambda config: run_locally(config, "inprocess", None, None, Terminal())

    def twice(name: str, precision: str) -> Path:
        changes = {"results__dir": str(tmp_path), "train__attack_precision": precision, "train__milestones": "9"}
        path = go(tiny_config(results__name=name, **changes, **{key: 1}))
        if precision == "auto":
            assert read_environment(path)["attack-precision"] == here
            elsewhere(path, **{"attack-precision": other})
            (path / "checkpoint").rename(tmp_path / "unused")
            shutil.copytree(tmp_path / "named" / "first", path / "checkpoint")
        else:
            shutil.copytree(path / "checkpoint", path / "first")
        return go(tiny_config(results__resume=str(path), **changes, **{key: 2}))

    named = twice("named", other)
    log = logging.getLogger("fedshield")
    caplog.set_level(logging.INFO, "fedshield")
    log.addHandler(caplog.handler)
    try:
        path = twice("run", "auto")
    finally:
        log.removeHandler(caplog.handler)
    assert f"train.attack-precision = auto: {here}, since this processor has" in caplog.text
    assert f"train.attack-precision = auto: {other}, with which the run began; a new run" in caplog.text
    assert same(weights(path), weights(named))
    assert read_environment(path)["attack-precision"] == other
    assert read_config(path)["train.attack-precision"] == "auto"
    assert f"--set train.attack-precision={other}" in words(run_page(path), Code)[0]


def test_a_run_that_goes_on_elsewhere_says_so_and_forgets_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("fedshield")
    log.addHandler(caplog.handler)
    path = run(tmp_path, "run", federation__rounds=1)
    old, final = read_environment(path), json.loads((path / "summary.json").read_text())["final"]
    elsewhere(path, processor="Another One", packages={**old["packages"], "torch": "1.0"})
    try:
        run(tmp_path, "", federation__rounds=2, results__resume=str(path))
    finally:
        log.removeHandler(caplog.handler)
    now = read_environment(path)
    assert now["processor"] == "Another One"
    assert now["packages"]["torch"] == "1.0"
    (again,) = now["resumed"]
    assert again["after"] == 1
    assert (again["processor"], again["packages"]) == (old["processor"], old["packages"])
    assert (
        f"processor Another One -> {old['processor']}; packages torch 1.0 -> {old['packages']['torch']}" in caplog.text
    )
    (kept,) = map(json.loads, (path / "evaluations.jsonl").read_text().splitlines())
    assert kept["round"] == 1
    assert kept["natural"] == final["natural"]  # of the end that the run had before
    assert "resumed after round 1" in str(run_page(path))


@pytest.mark.parametrize("command", ["run", "centralized"])
def test_the_command_in_a_report_really_repeats_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {"train__milestones": "1", "data__root": "my data", "centralized__epochs": 1, "results__name": "first"}
    config = tiny_config(results__dir=str(tmp_path / "runs"), **changes)
    path = train_centrally(config) if command == "centralized" else run_locally(config, None, None, None, Terminal())
    (told,) = words(run_page(path), Code)
    place, line = told.splitlines()
    assert place == f"cd {tmp_path}"
    program, *arguments = shlex.split(line)
    assert (program, arguments[0]) == ("fedshield", command)
    done = CliRunner().invoke(app, [*arguments, "--name", "second"])
    assert done.exit_code == 0, done.output
    assert same(weights(tmp_path / "runs" / "second"), weights(path))
    assert figures(tmp_path / "runs" / "second") == figures(path)
    card = export_run(path, "safetensors")[1].read_text()
    assert f"    {place}\n    {line}\n" in card


def begun(tmp_path: Path, kind: Kind) -> Path:
    config = tiny_config(results__dir=str(tmp_path), results__name="a run", train__milestones="1,2")
    with RunDir.open(config, kind) as opened:
        opened.write_environment(DESCRIBED)
    return tmp_path / "a run"


DESCRIBED = {"command": "flwr-serverapp", "folder": "/app", "threads": 1, "device": "cpu", "processor": "CPU"}


def test_a_submitted_run_says_how_it_is_submitted_again(tmp_path: Path) -> None:
    path = begun(tmp_path, DEPLOYED)
    assert read_kind(path) == DEPLOYED
    page = run_page(path)
    (told,) = words(page, Code)
    assert told.startswith("fedshield submit --superlink HOST:PORT --ca ca.crt --set ")
    _, _, _, _, _, _, *settings = shlex.split(told)
    again = {**default_config(), **given(None, settings[1::2])}
    own = ("results.dir", "results.name")
    assert {key: value for key, value in again.items() if key not in own} == {
        key: value for key, value in read_config(path).items() if key not in own
    }
    assert "each client must have the images that it had" in words(page, Text)[0]
    assert any(f"Continue with: the same settings and results.resume='{path}'" in line for line in page.warnings)
    content = json.loads((path / "environment.json").read_text())
    del content["deployed"]  # as earlier versions wrote it
    (path / "environment.json").write_text(json.dumps(content))
    assert read_kind(path) == DEPLOYED


def test_commands_hold_in_a_shell_whatever_the_folder_is_called(tmp_path: Path) -> None:
    assert shlex.split(FEDERATION.again(Path("/my runs/a'b"))) == ["fedshield", "run", "--resume", "/my runs/a'b"]
    assert shlex.split(CENTRALIZED.again(Path("/a b")))[-1] == "/a b"
    study = tmp_path / "my study"
    study.mkdir()
    results(study)
    assert sweep_again(study) == ""
    assert "no study.toml next to the results" in str(study_page(study))
    (study / "study.toml").write_text('title = "T"\n')
    assert shlex.split(sweep_again(study)) == ["fedshield", "sweep", str(study / "study.toml")]
