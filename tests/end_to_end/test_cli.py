"""The command line as a user meets it: exit statuses, processes where these matter, and one line for every mistake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from common.errors import FedShieldError
from server.run_directory.reader import read_metrics
from simulations.cli.main import app, main
from tests.helpers.images import make_folder
from tests.helpers.program import PROGRAM, fedshield, invoke, tiny_options
from tests.helpers.runs import figures, same, weights

# So many that a signal sent after the second one arrives before the last.
ROUNDS = 12


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = fedshield(
        "run", *tiny_options(federation__rounds=ROUNDS), "--results", "here", "--name", "whole", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder / "here" / "whole", done.stdout


def test_run_prints_its_place_and_a_line_for_each_round(finished: tuple[Path, str]) -> None:
    path, output = finished
    lines = output.splitlines()
    assert lines[0] == (
        "Images: training 200 of 4,000 (data.max-examples), shared 16 of 40 (sharing.fraction), "
        "test 40 of 1,000 (evaluate.examples), final test 40 of 1,000 (evaluate.final-examples)"
    )
    assert lines[1] == lines[-1] == f"Run directory: {path}"
    assert lines[2].startswith("diagnosis: of 10 classes, 10 have fewer than 5 held-out images")
    assert lines[3].startswith("Shared: 16 images (sharing.kind = images); label distance between clients ")
    # So small a network may well be doubted: what evaluation and diagnosis say of that has tests of its own.
    doubted = re.compile(r"warning: |round \d+: ")
    assert [line.split("  ")[0] for line in lines[4:-1] if not doubted.match(line)] == [
        *(f"round {i}/{ROUNDS}" for i in range(1, ROUNDS + 1)),
        "final",
    ]
    assert "pgd-2" in lines[4]
    assert "n = 40" in lines[4]
    for name in ("accuracy.png", "accuracy.svg", "partition.png", "partition.svg"):
        assert (path / "figures" / name).stat().st_size > 1000


def test_evaluate_measures_the_checkpoint_anew(finished: tuple[Path, str]) -> None:
    path, _ = finished
    done = invoke("evaluate", str(path), "--attacks", "fgsm,pgd", "--examples", "60")
    assert done.returncode == 0, done.stderr
    assert f"after round {ROUNDS}, epsilon 8/255" in done.stdout
    assert "n = 60 test images" in done.stdout
    assert "pgd-10" in done.stdout
    assert len((path / "evaluations.jsonl").read_text().splitlines()) == 1


def test_a_finished_run_that_is_resumed_is_given_what_is_missing(finished: tuple[Path, str], tmp_path: Path) -> None:
    path = shutil.copytree(finished[0], tmp_path / "whole")
    for file in (path / "figures").iterdir():  # of an evaluation
        if not file.name.startswith(("accuracy", "partition")):
            file.unlink()
    whole = {file.name: file.read_bytes() for file in (path / "figures").iterdir()}
    assert sorted(whole) == ["accuracy.png", "accuracy.svg", "partition.png", "partition.svg"]
    renamed = invoke("run", "--resume", str(path), "--name", "other")
    assert (renamed.returncode, renamed.stderr.splitlines()[-1]) == (
        *(1, f"fedshield: results.name = other: a resumed run stays where it is: {path}; leave it out"),
    )
    done = invoke("run", "--resume", str(path))
    assert done.returncode == 0, done.stderr
    advice = f"raise federation.rounds to continue, or evaluate it with: fedshield evaluate {path}"
    place = f"Run directory: {path}"
    assert done.stdout.splitlines() == [
        *(f"All {ROUNDS} rounds are done; {advice}", place, place, "Nothing is missing.")
    ]
    shutil.rmtree(path / "figures")
    (path / "figures").write_text("")  # as on a full disk, nothing can be drawn
    failed = invoke("run", "--resume", str(path))
    assert failed.returncode == 1
    hint = "a file has the place of a folder; remove it, or choose another place"
    assert failed.stderr == f"fedshield: {path}/figures/accuracy.png: File exists; {hint}\n"
    (path / "figures").unlink()
    mended = invoke("run", "--resume", str(path), "--json")
    assert mended.returncode == 0, mended.stderr
    assert [json.loads(line)["event"] for line in mended.stdout.splitlines()] == ["start", "end"]
    files = ", ".join(f"figures/{name}" for name in sorted(whole))
    assert mended.stderr.splitlines()[-1] == f"Missing figures drawn: {files}"
    assert {file.name: file.read_bytes() for file in (path / "figures").iterdir()} == whole


def test_a_command_goes_on_from_the_checkpoint_before_a_damaged_one(finished: tuple[Path, str], tmp_path: Path) -> None:
    path = shutil.copytree(finished[0], tmp_path / "whole")
    (path / "summary.json").unlink()
    (path / "checkpoint" / "checkpoint.json").write_text('{"rou')
    done = invoke("run", "--resume", str(path), "--engine", "inprocess")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.endswith(f"continuing from the one before, number {ROUNDS - 1}") for line in lines[:2])
    assert next(line for line in lines if line.startswith("round")).startswith(f"round {ROUNDS}/{ROUNDS}")


def test_a_finished_run_is_not_gone_on_with_otherwise(finished: tuple[Path, str]) -> None:
    path, _ = finished
    other = invoke("run", "--resume", str(path), "--set", "seed=2", "--set", f"federation.rounds={ROUNDS + 1}")
    assert other.returncode == 1
    assert "belongs to another configuration: seed = 1 there, 2 now" in other.stderr


def test_a_run_is_found_by_its_name_in_the_usual_folder(
    tmp_path: Path, finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished[0], tmp_path / "runs" / "whole")
    Image.new("RGB", (32, 32)).save(tmp_path / "gray.png")
    monkeypatch.chdir(tmp_path)
    for command in (["evaluate", "whole", "--examples", "20"], ["export", "whole"], ["attack", "whole", "gray.png"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done
    assert (tmp_path / "runs" / "whole" / "export" / "model.safetensors").exists()
    assert f"Run directory: {tmp_path}/runs/whole\n" in CliRunner().invoke(app, ["run", "--resume", "whole"]).output
    assert "here/whole: not found" in str(CliRunner().invoke(app, ["export", "here/whole"]).exception)


@pytest.mark.parametrize("blow", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_from_outside_resumes_to_the_same_numbers(
    tmp_path: Path, finished: tuple[Path, str], blow: signal.Signals
) -> None:
    options = tiny_options(federation__rounds=ROUNDS)
    command = [PROGRAM, "run", *options, "--results", str(tmp_path), "--name", "part"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"round 2/{ROUNDS}"):
            process.send_signal(blow)
            break
    rest, complaint = process.communicate(timeout=300)
    part = tmp_path / "part"
    assert f"round 2/{ROUNDS}" not in rest  # nothing is told twice
    if blow is signal.SIGINT:
        assert process.returncode == 130
        assert f"continue with: fedshield run --resume {part}" in rest
        assert complaint == "fedshield: interrupted\n"
    assert len(read_metrics(part)) >= 2
    resumed = fedshield("run", "--resume", str(part))
    assert resumed.returncode == 0, resumed.stderr
    whole, _ = finished
    assert same(weights(part), weights(whole))
    assert figures(part) == figures(whole)


def test_partitions_shows_a_table_and_draws_a_figure(tmp_path: Path) -> None:
    done = invoke("partitions", *tiny_options(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "crescent" in done.stdout
    assert re.search(r"^ *pool( +\d+){11} *$", done.stdout, re.MULTILINE)
    stem = tmp_path / "runs" / "partition-shapes10-paper-seed1"
    assert f"Figure: {stem}.png" in done.stdout
    assert stem.with_suffix(".svg").stat().st_size > 1000


def test_doctor_tells_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "data" / "pets" / "train").mkdir(parents=True)
    (tmp_path / "data" / "pets" / "test").mkdir()
    shutil.copytree(tmp_path / "data" / "pets", tmp_path / "data" / "__MACOSX")
    done = invoke("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"torchattacks {version('torchattacks')}" in done.stdout
    assert f"image folder: {tmp_path}/data/pets" in done.stdout
    assert "__MACOSX" not in done.stdout
    assert "cifar10 is not in" in done.stdout


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["data.name=folder", "data.root=gone"], "data.name = folder: data.root: no folder {}/gone/train; an image"),
        (["data.name=split", "data.root=gone"], "data.name = split: {}/gone/split.json: not found; make it with"),
        (["model.name=own.py:it"], "model.name = own.py:it: no file {}/own.py; write FILE.py:NAME"),
    ],
)
def test_doctor_tells_what_the_configuration_asks_for_and_is_not_there(
    tmp_path: Path, settings: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["doctor", *(f"--set={setting}" for setting in settings)])
    assert isinstance(done.exception, FedShieldError)
    assert str(done.exception).startswith(f"doctor: {told.format(tmp_path)}")
    assert "\n" not in str(done.exception)


def test_doctor_finds_a_folder_and_a_division_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(make_folder(tmp_path / "pets"))
    monkeypatch.chdir(tmp_path)
    folder = tiny_options(data__name="folder", data__root=root, partition__scheme="iid", federation__clients=2)
    split = tiny_options(data__name="split", data__root="parts", federation__clients=2)
    for command in (["doctor", *folder], ["split-data", "--out", "parts", *folder], ["doctor", *split]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done
        if command[0] == "doctor":
            assert ", 2 classes" in done.stdout
            assert "relu, 2 classes, 32×32 pixels" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["run", "--set", "federation.round=3"],
            "unknown key federation.round (--set federation.round=3); did you mean",
        ),
        (["run", "no-such.toml"], "no-such.toml: no such file; give a TOML file, or one of the presets: cifar10-iid,"),
        (["run", "--set", "threads=99999999999"], "threads = 99999999999: input should be less than or equal to 1024"),
        (["run", "--set", "model.activation=rleu"], "model.activation = 'rleu': unknown; allowed: relu"),
        (
            ["run", "--engine", "inprocess", "--workers", "2"],
            "--workers 2: the inprocess engine has one; use --engine processes for more",
        ),
        (
            ["run", "--engine", "inprocess", "--ray-address", "head:6379"],
            "--ray-address head:6379: the inprocess engine uses no cluster; use --engine ray",
        ),
        (
            ["run", "--engine", "ray", "--ray-address", "head"],
            "--ray-address head: write HOST:PORT of a head node, as in localhost:6379",
        ),
        (
            ["run", "--set", "federation.clients=1000000", "--set", "partition.scheme=iid"],
            "federation.clients = 1000000: input should be less than or equal to 100000",
        ),
        (
            ["run", "--results", f"{__file__}/runs"],
            "Not a directory; a file has the place of a folder; remove it, or choose another place",
        ),
        (["run", "--set", "data.name=folder", "--set", "data.root=gone"], "data.root: no folder "),
        (["run", "--resume", "nothing"], "nothing/config.json: not found; is this a run directory?"),
        (
            ["run", "--set", "data.max-examples=10", "--set", "partition.scheme=iid"],
            "federation.clients = 10: more clients",
        ),
        (["evaluate", "nothing", "--epsilons", "0,nan"], "--epsilons 0,nan: write numbers from 0 to 255"),
        (["evaluate", "nothing"], "nothing/config.json: not found; is this a run directory?"),
        (
            ["partitions", "--set", "partition.scheme=pathological", "--set", "partition.classes-per-client=11"],
            "partition.classes-per-client = 11: the data has 10 classes",
        ),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_on_stderr(
    tmp_path: Path,
    arguments: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # In this process, which has imported torch: a process for each would take most of a minute between them.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fedshield", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1, told.err
    assert told.err.startswith("fedshield: ")
    assert expected in told.err
    assert "Traceback" not in told.out + told.err


def test_a_mistake_ends_the_process_with_status_1(tmp_path: Path) -> None:
    done = fedshield("run", "--results", "/proc", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("fedshield: /proc: ")


def test_wrong_usage_has_a_status_of_its_own(tmp_path: Path) -> None:
    done = fedshield("run", "--engine", "steam", cwd=tmp_path)
    assert done.returncode == 2
    assert "inprocess" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["attack", "run", "cat.png", "--epsilon", "nan"],
        ["attack", "run", "cat.png", "--epsilon", "inf"],
        ["evaluate", "run", "--examples", "nan"],
        ["register", "keys", "--superlink", "localhost:9", "--wait", "nan"],
        ["submit", "--superlink", "localhost:9", "--wait", "inf"],
    ],
    ids=" ".join,
)
def test_what_is_no_finite_number_is_wrong_usage(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert f"Invalid value for '{arguments[-2]}'" in done.output


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fedshield ex", ["export"]),
        ("fedshield run cpu-ci", ["cpu-cifar10"]),
        ("fedshield sweep full-sh", ["full-sharing"]),
        ("fedshield run --set sharing.p", ["sharing.pool-fraction=", "sharing.per-class="]),
        ("fedshield run my-own-f", []),  # the shell goes on with files
    ],
)
def test_the_shell_completes_commands_presets_studies_and_keys(typed: str, offered: list[str]) -> None:
    asked = {"_FEDSHIELD_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = subprocess.run([PROGRAM], env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (offered, "")


def test_a_disk_that_is_full_while_data_is_decoded_is_one_line(tmp_path: Path) -> None:
    # A limit on the size of any file acts as the full disk: the decoded images do not fit under it.
    command = f"ulimit -f 100; trap '' XFSZ; exec {PROGRAM} partitions --set data.max-examples=200"
    environment = {**os.environ, "FEDSHIELD_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        ["bash", "-c", command], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "shapes10-1" in done.stderr
    assert "disk space" in done.stderr
    assert not list((tmp_path / "cache").glob("shapes10-1/*"))
