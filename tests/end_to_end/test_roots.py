"""Where a run's images are, and where a command is given: another folder than the one in which the run was begun."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import FedShieldError
from common.files import read_json
from simulations.cli.main import app
from tests.helpers.images import make_folder
from tests.helpers.program import tiny_options

CHANGES = {"data__name": "folder", "data__root": "pets", "partition__scheme": "iid", "federation__clients": 2}


def begun(place: Path, monkeypatch: pytest.MonkeyPatch, rounds: int = 1) -> Path:
    """Run a federation on the images in ``pets`` next to it, and go to another folder."""
    make_folder(place / "pets", images=8)
    monkeypatch.chdir(place)
    done = CliRunner().invoke(app, ["run", "--name", "one", *tiny_options(**CHANGES, federation__rounds=rounds)])
    assert done.exit_code == 0, done
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    return place / "runs" / "one"


def test_a_relative_root_is_told_from_where_the_run_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(tmp_path, monkeypatch)
    make_folder(tmp_path / "elsewhere" / "pets", size=20, images=8)  # others of that name are not taken
    for command in (
        ["evaluate", str(run), "--attacks", "fgsm"],
        ["run", "--resume", str(run), "--set", "federation.rounds=2"],
        ["evaluate", str(run)],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done
    assert read_json(run / "config.json", "")["data"]["root"] == str(tmp_path / "pets")


def test_evaluate_and_resume_are_told_where_the_images_have_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path, monkeypatch)
    (tmp_path / "pets").rename(tmp_path / "elsewhere" / "moved")
    lost = CliRunner().invoke(app, ["evaluate", str(run)])
    assert isinstance(lost.exception, FedShieldError)
    assert "give it with --set data.root=DIR" in str(lost.exception)
    for command in (["evaluate", str(run)], ["run", "--resume", str(run), "--set", "federation.rounds=2"]):
        done = CliRunner().invoke(app, [*command, "--set", "data.root=moved"])
        assert done.exit_code == 0, done
    monkeypatch.chdir(tmp_path)  # what was relative to the folder above is still found
    done = CliRunner().invoke(app, ["evaluate", str(run)])
    assert done.exit_code == 0, done


def test_evaluate_changes_nothing_else_of_a_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", "nothing", "--set", "attack.steps=4"])
    assert isinstance(done.exception, FedShieldError)
    assert str(done.exception) == (
        "--set attack.steps: the run stays as it was trained; "
        "what can be set here: data.root, threads, evaluate.eot, attack.norm, attack.epsilon-255, evaluate.step-255"
    )
