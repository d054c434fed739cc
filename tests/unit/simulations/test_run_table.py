"""``fedshield runs`` and ``fedshield cache``: what is on the disk, and that nothing else is ever deleted."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image

from common.paths import ROOT
from server.run_directory.lock import measured
from simulations.cache_table import cache_lines
from simulations.run_table import size_text
from tests.helpers.program import invoke, tiny_options


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, and a stopped one."""
    place = tmp_path_factory.mktemp("table")
    options = [*tiny_options(federation__rounds=1), "--set", "evaluate.final-attacks=fgsm"]
    done = invoke("run", *options, "--engine", "inprocess", "--results", place, "--name", "whole")
    assert done.returncode == 0, done.stderr
    shutil.copytree(place / "whole", place / "part")
    (place / "part" / "summary.json").unlink()
    (place / "other").mkdir()
    (place / "other" / "notes.txt").write_text("mine")
    return place


def rows(folder: Path) -> dict[str, list[str]]:
    shown = invoke("runs", "--results", folder, COLUMNS="200").stdout
    lines = [line.split() for line in shown.splitlines()]
    return {line[0]: line for line in lines if line and line[0] in {"whole", "part", "other", "broken"}}


def test_the_table_says_state_rounds_and_accuracy(folder: Path) -> None:
    found = rows(folder)
    assert found.keys() == {"whole", "part"}
    assert found["whole"][1:5] == ["finished", "1", "of", "1"]
    assert found["part"][1] == "stopped"
    final = json.loads((folder / "whole" / "summary.json").read_text())["final"]
    assert found["whole"][6:8] == [f"{100 * final[name]['value']:.1f}" for name in ("natural", "worst")]
    with FileLock(folder / "part" / ".lock"):
        assert rows(folder)["part"][1] == "running"
    assert rows(folder)["part"][1] == "stopped"


@pytest.mark.parametrize("command", ["runs", "report whole", "compare whole part"])
def test_what_shows_runs_does_not_wait_for_torch(folder: Path, tmp_path: Path, command: str) -> None:
    shutil.copytree(folder, tmp_path / "runs")
    script = (
        "import sys; from simulations.cli.main import main\n"
        "try: main()\n"
        "finally: print([name for name in ('torch', 'flwr') if name in sys.modules])"
    )
    words = [sys.executable, "-c", script, *command.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.check_output(words, env=environment, cwd=tmp_path, text=True, timeout=300)
    assert told.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [["certs"], ["split-data"], ["export", "whole"], ["attack", "whole", "x.png"]])
def test_no_other_files_are_written_into_a_runs_folder(folder: Path, tmp_path: Path, command: list[str]) -> None:
    shutil.copytree(folder, tmp_path / "runs")
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    before = sorted((tmp_path / "runs" / "part").rglob("*"))
    done = invoke(*command, "--out", "runs/part", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("part: holds a run or a study; name another folder")
    assert sorted((tmp_path / "runs" / "part").rglob("*")) == before


def test_a_card_takes_the_place_of_a_card_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# fedshield, adversarial-robustness: my notes")
    done = invoke("export", folder / "whole", "--out", tmp_path)
    assert (
        done.stderr
        == f"fedshield: {tmp_path / 'README.md'}: is there, and no card of FedShield's; choose another --out\n"
    )
    assert (tmp_path / "README.md").read_text().endswith("my notes")
    for _ in range(2):
        assert invoke("export", folder / "whole", "--out", tmp_path / "new").returncode == 0


def test_pictures_of_one_name_keep_files_of_their_own(folder: Path, tmp_path: Path) -> None:
    places = [tmp_path / "cat" / "1.png", tmp_path / "dog" / "1.png", tmp_path / "dog" / "1-2.png"]
    for shade, place in enumerate(places):
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (80 * shade, 0, 0)).save(place)
    done = invoke("attack", folder / "whole", *places, "--out", tmp_path / "out", "--attack", "fgsm")
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "out").glob("*-attacked.png"))
    assert written == ["1-2-2-attacked.png", "1-2-attacked.png", "1-attacked.png"]


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_run_that_goes_on_or_has_its_place_is_not_started_elsewhere(
    folder: Path, tmp_path: Path, more: list[str]
) -> None:
    (tmp_path / "file").touch()
    place = ("run", *tiny_options(), "--engine", "inprocess", "--name", "n", "--results", tmp_path / "file", *more)
    for words, told in (
        (
            place,
            f"{tmp_path / 'file'}: Not a directory; a file has the place of a folder; "
            "remove it, or choose another place",
        ),
        (
            ("run", "--resume", folder / "part", "--results", tmp_path, *more),
            f"results.dir = {tmp_path}: a resumed run stays where it is: {folder / 'part'}; leave it out",
        ),
    ):
        done = invoke(*words)
        assert (done.returncode, done.stderr) == (1, f"fedshield: {told}\n")
    with FileLock(folder / "part" / ".lock"):
        done = invoke("run", "--resume", folder / "part", *more)
        assert done.returncode == 1
        assert (
            done.stderr == f"fedshield: {folder / 'part'}: another process is writing to this run; wait for it to end\n"
        )


def test_a_resumed_run_may_be_given_its_own_folder_by_any_name(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    words = ("run", "--resume", tmp_path / "real" / "part", "--engine", "inprocess")
    done = invoke(*words, "--results", tmp_path / "link")
    assert done.returncode == 0, done.stderr


def test_a_run_without_its_environment_is_still_a_run(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "whole", tmp_path / "runs" / "lost")
    (run / "environment.json").unlink()
    assert "finished" in invoke("runs", cwd=tmp_path).stdout
    shutil.rmtree(run / "checkpoint")
    done = invoke("evaluate", run)
    assert done.stderr.splitlines()[-1] == f"fedshield: {run}: has no checkpoint; it is lost: restore it"


def test_a_report_overwrites_reports_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1")
    for taken in (tmp_path / "mine.py", folder / "whole" / "metrics.jsonl"):
        before = taken.read_bytes()
        done = invoke("report", folder / "whole", "--out", taken)
        assert done.stderr == f"fedshield: --out {taken}: is there, and no report; name another file\n"
        assert taken.read_bytes() == before
    for _ in range(2):
        assert invoke("report", folder / "whole", "--out", tmp_path / "new.html").returncode == 0


def test_a_damaged_run_does_not_hide_the_others(folder: Path) -> None:
    shutil.copytree(folder / "part", folder / "broken")
    (folder / "broken" / "config.json").write_text("{")
    found = rows(folder)
    shutil.rmtree(folder / "broken")
    assert found.keys() == {"whole", "part", "broken"}
    assert found["broken"][1] == "damaged:"


def test_a_study_shows_how_many_of_its_planned_runs_are_finished(folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "sharing"
    shutil.copytree(folder / "whole", study / "runs" / "one")
    shutil.copytree(folder / "part", study / "runs" / "two")
    (study / "study.toml").write_text("seeds = [1, 2]\n[grid]\n'sharing.fraction' = [0.0, 0.2, 0.4]\n")
    assert "study  1 of 6 runs" in re.sub(" {2,}", "  ", invoke("runs", "--results", tmp_path).stdout)
    (study / "study.toml").write_text("[")
    assert "study  1 runs" in re.sub(" {2,}", "  ", invoke("runs", "--results", tmp_path).stdout)


def test_a_folder_that_is_not_there_and_an_answer_without_a_question_are_refused(tmp_path: Path) -> None:
    done = invoke("runs", "--results", "nope", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"--results nope: no folder {tmp_path / 'nope'}" in done.stderr
    assert "none yet" in invoke("runs", cwd=tmp_path).stdout  # nothing was run, where runs would be
    assert "--yes: answers the question of --rm" in invoke("runs", "--yes", cwd=tmp_path).stderr


def test_only_runs_that_do_not_go_on_are_deleted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shutil.copytree(folder / "part", tmp_path / "runs" / "gone")
    for given, reason in (
        (folder / "other", "not a run's directory; --rm deletes run directories alone, so remove it yourself"),
        (folder, "not a run's directory"),
    ):
        done = invoke("runs", "--rm", "--yes", run, given)
        assert done.returncode == 1
        assert reason in done.stderr
    with FileLock(run / ".lock"):
        assert "goes on" in invoke("runs", "--rm", "--yes", run).stderr
    with measured(run), measured(run):
        assert "another process measures this run" in invoke("runs", "--rm", "--yes", run).stderr
    (tmp_path / "link").symlink_to(run)
    assert "a link to" in invoke("runs", "--rm", "--yes", tmp_path / "link").stderr
    assert "names no run" in invoke("runs", "--rm").stderr
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(""))  # nobody answers
        unanswered = invoke("runs", "--rm", run)
    assert unanswered.returncode == 1
    assert "files of others" not in unanswered.stdout
    assert unanswered.stderr == "fedshield: not confirmed, so nothing was done; --yes does not ask\n"
    assert (run / "metrics.jsonl").exists()
    assert (folder / "other" / "notes.txt").exists()
    beside = shutil.copytree(run, tmp_path / "gone")  # ./gone is not runs/gone
    assert invoke("runs", "--rm", "--yes", "./gone", cwd=tmp_path).stdout.splitlines()[-1] == f"Deleted: {beside}"
    assert run.exists()
    of_study = shutil.copytree(run, tmp_path / "study" / "runs" / "one")
    (tmp_path / "study" / "study.toml").touch()
    assert "is part of a study" in invoke("runs", "--rm", "--yes", of_study).stderr
    here = shutil.copytree(run, tmp_path / "gone")
    (run / "notes.txt").write_text("mine")
    done = invoke("runs", "--rm", "--yes", "gone", cwd=tmp_path)  # by its name in results.dir
    assert here.exists()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith("B, with files of others: notes.txt")
    assert done.stdout.splitlines()[-1] == f"Deleted: {run}"
    assert not run.exists()


def test_the_cache_is_shown_and_cleared_alone(tmp_path: Path) -> None:
    (tmp_path / "datasets" / "one").mkdir(parents=True)
    (tmp_path / "datasets" / "one" / "images.npy").write_bytes(bytes(1500))
    (tmp_path / "mine.txt").write_text("mine")
    shown = invoke("cache", FEDSHIELD_CACHE=str(tmp_path)).stdout.splitlines()
    assert shown[0] == f"Cache: {tmp_path}"
    assert shown[1].split()[:4] == ["datasets", "1.5", "kB", "1"]
    cleared = invoke("cache", "--clear", FEDSHIELD_CACHE=str(tmp_path)).stdout.splitlines()
    assert cleared[0] == "Deleted: 1.5 kB"
    assert cleared[2].split()[:4] == ["datasets", "0", "B", "0"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_sizes_are_short() -> None:
    assert [size_text(size) for size in (0, 999, 1500, 12_345_678, 5e9)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "12.3 MB",
        "5 GB",
    ]


def test_every_folder_of_the_cache_is_shown_but_that_of_given_objects() -> None:
    folders = ("common", "server", "client", "simulations", "fedshield")
    sources = [path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = {name for text in sources for name in re.findall(r'cache_dir\(\) / "(\w+)"', text)}
    shown = {line.split()[0] for line in cache_lines()}
    assert named - {"given"} == shown - {"all"}


def test_a_name_is_looked_up_in_the_folder_that_is_given(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs" / "whole"
    shutil.copytree(folder / "part", other)  # the name is in the default folder too
    shown = invoke("runs", "whole", "--results", folder, cwd=tmp_path).stdout
    assert "finished" in shown
    assert "stopped" in invoke("runs", "whole", cwd=tmp_path).stdout
