"""Run and study directories that somebody else has made: nothing outside them is read or written, and nothing hangs."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from common.config.flat import read_toml
from common.data.split_directories import write_split
from common.errors import FedShieldError
from common.evaluation.store import ArrayStore
from common.factory import prepare_data
from common.links import refuse_links
from common.paths import ROOT
from server.run_directory.reader import read_evaluations, read_summary
from server.run_directory.writer import RunDir
from simulations.deployment.certificates import make_certs
from simulations.reports.compare import compare_runs
from simulations.reports.figures.study_figures import plot_study
from simulations.reports.html.write import write_report
from simulations.reports.study_tables import make_tables
from simulations.studies.study import load_study
from simulations.studies.sweep import run_study
from tests.end_to_end.test_formats import COMMANDS
from tests.helpers.program import PROGRAM
from tests.helpers.runs import run
from tests.helpers.settings import tiny_config

STUDY = ROOT / "docs" / "results" / "cpu-methods"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs"), "finished")


@pytest.fixture
def received(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "finished")  # for compare
    return shutil.copytree(finished, tmp_path / "received")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the reader's own, with a file."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key").write_text('{"the reader": "alone"}\n')
    return tmp_path / "home"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put_link(place: Path, victim: Path) -> None:
    """Put a link to the victim's file, or to its folder where a folder was, in a place."""
    folder = place.is_dir() or not place.suffix
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim if folder else victim / "key")


PLACES = (
    *("config.json", "metrics.jsonl", "evaluations.jsonl", "summary.json", "partition.json", "environment.json"),
    *("config.json.partial", "report.html.partial", "report.html", ".lock", "trackers.json"),
    *("figures", "evaluations", "export", "checkpoint", "own", "tensorboard"),
    *("checkpoint/checkpoint.json", "figures/accuracy.png", "evaluations/deep/link.npz", "own/model.py"),
)


@pytest.mark.parametrize("place", PLACES)
def test_a_link_that_leaves_a_run_is_refused_by_every_command(received: Path, victim: Path, place: str) -> None:
    (received / "evaluations" / "deep").mkdir(exist_ok=True)
    put_link(received / place, victim)
    before = content(received), content(victim)
    for name, command in COMMANDS.items():
        with pytest.raises(FedShieldError) as caught:
            command(received)
        assert str(caught.value).startswith(f"{received}: {place} is a link to {victim}"), name
        assert "\n" not in str(caught.value)
    with pytest.raises(FedShieldError, match="is a link to"):
        RunDir.open(tiny_config(results__dir=str(received.parent), results__name="received"))
    assert (content(received), content(victim)) == before


def test_a_report_of_a_run_with_a_link_is_one_line_and_status_1(received: Path, victim: Path) -> None:
    put_link(received / "report.html.partial", victim)
    done = subprocess.run([PROGRAM, "report", received], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fedshield: {received}: report.html.partial is a link to {victim}/key, which could")
    assert done.stderr.count("\n") == 1
    assert content(victim) == {"key": b'{"the reader": "alone"}\n'}


@pytest.mark.parametrize("place", ["metrics.jsonl", "config.json", "evaluations.jsonl", ".lock", "own"])
def test_a_pipe_in_a_run_is_refused_and_not_waited_for(received: Path, place: str) -> None:
    (received / place).unlink(missing_ok=True)
    os.mkfifo(received / place)
    for command in COMMANDS.values():
        with pytest.raises(FedShieldError, match=f"{place} is neither a file nor a folder; remove it"):
            command(received)


def test_links_that_stay_inside_and_a_link_to_the_whole_run_are_followed(received: Path, tmp_path: Path) -> None:
    (received / "figures").mkdir(exist_ok=True)
    (received / "newest.json").symlink_to("summary.json")
    (received / "drawings").symlink_to("figures")
    (received / "gone").symlink_to(received / "no longer there")
    (tmp_path / "on another disk").symlink_to(received)
    assert write_report(tmp_path / "on another disk") == tmp_path / "on another disk" / "report.html"
    (received / "round").symlink_to("../received/../home")
    with pytest.raises(FedShieldError, match="round is a link to"):
        refuse_links(received)


@pytest.mark.parametrize("name", ["evaluations.jsonl", "report.html", "metrics.jsonl", "config.json", ".lock"])
def test_a_second_name_of_another_file_leaves_that_as_it_is(received: Path, victim: Path, name: str) -> None:
    other = victim / "key"
    if (received / name).exists():
        other.write_bytes((received / name).read_bytes())
        (received / name).unlink()
    else:
        other.write_text("")
    (received / name).hardlink_to(other)
    before = other.read_bytes()
    COMMANDS["evaluate"](received)
    COMMANDS["report"](received)
    COMMANDS["resume"](received)
    assert other.read_bytes() == before


def test_a_link_that_leaves_a_study_is_refused(tmp_path: Path, victim: Path) -> None:
    study = tmp_path / "study"
    commands: list[Callable[[Path], object]] = [
        write_report,
        make_tables,
        lambda path: run_study(Path("cpu-methods"), {}, path, 1, Console()),
    ]
    for place in ("results.csv", "figures", "tables.md.partial", "study.toml", ".lock", "runs/seed1/config.json"):
        shutil.copytree(STUDY, study)
        (study / "runs" / "seed1").mkdir(parents=True)
        put_link(study / place, victim)
        before = content(study), content(victim)
        for command in commands:
            with pytest.raises(FedShieldError) as caught:
                command(study)
            assert str(caught.value).startswith(f"{study}: {place} is a link to {victim}")
        assert (content(study), content(victim)) == before
        shutil.rmtree(study)


@pytest.mark.parametrize(
    "place", ["server", "client-1", "client-1/train", "superlink", "ca.crt", "server.key.0.partial"]
)
def test_keys_and_images_are_not_written_through_a_link(tmp_path: Path, victim: Path, place: str) -> None:
    put_link(tmp_path / "given" / place, victim)
    before = content(victim)
    commands: list[Callable[[Path], object]] = [
        lambda folder: make_certs(folder, 2, ["localhost"]),
        lambda folder: write_split(*prepare_data(tiny_config()), folder),
    ]
    for command in commands:
        with pytest.raises(FedShieldError) as caught:
            command(tmp_path / "given")
        assert str(caught.value).startswith(f"{tmp_path / 'given'}: {place} is a link to {victim}")
    assert content(victim) == before


@pytest.mark.parametrize("name", ["../../home/key", "/etc/passwd", "..", "a/b.safetensors", ".hidden", "", "a\nb"])
@pytest.mark.parametrize("key", ["model", "best.model", "optimizer.file"])
def test_a_checkpoint_names_files_of_its_folder_alone(received: Path, name: str, key: str) -> None:
    path = received / "checkpoint" / "checkpoint.json"
    checkpoint = json.loads(path.read_text())
    shares = {"natural": {"value": 0.5}, "worst": {"value": 0.5}}
    checkpoint["best"] = {**checkpoint, "validation": shares}
    checkpoint["optimizer"] = {"file": checkpoint["model"], "sha256": checkpoint["sha256"]}
    table, _, last = key.rpartition(".")
    (checkpoint[table] if table else checkpoint)[last] = name
    path.write_text(json.dumps(checkpoint))
    for command in ("export", "evaluate", "attack"):
        with pytest.raises(FedShieldError) as caught:
            COMMANDS[command](received)
        told = f"{path}: damaged, or of another version of FedShield ({key}: string should match"
        assert str(caught.value).startswith(told)


def test_predictions_are_looked_for_in_their_folder_alone(received: Path) -> None:
    kept = next((received / "evaluations").glob("predictions-*.npz"))
    kept.rename(received / "moved.npz")
    summary = json.loads((received / "summary.json").read_text())
    for name in ("../moved", str(received / "moved"), "x" * 300):
        summary["final"]["predictions"] = name
        (received / "summary.json").write_text(json.dumps(summary))
        assert "Adversarial examples" not in write_report(received).read_text()


BAD = (b'{"a": ' + b"[" * 100_000, b'{"a": NaN}', b'{"a": "\\ud800"}', b'{"a": 1e400}', b'{"a": ' + b"9" * 5000 + b"}")
READERS = {
    "config.json": "report compare export evaluate attack resume",
    "environment.json": "report compare export evaluate resume",
    "metrics.jsonl": "report compare",
    "summary.json": "report compare export",
    "evaluations.jsonl": "report compare export",
    "partition.json": "report compare export evaluate attack",
    "checkpoint/checkpoint.json": "export evaluate attack",
}


@pytest.mark.parametrize("name", READERS)
def test_json_made_to_do_harm_is_one_line_that_names_the_file(received: Path, name: str) -> None:
    for bad in BAD:
        (received / name).write_bytes(bad + b"\n")
        for command in READERS[name].split():
            with pytest.raises(FedShieldError) as caught:
                COMMANDS[command](received)
            assert str(caught.value).startswith(f"{received / name}: ")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("classes", [1, 2], "final.classes.0: input should be a valid string"),
        ("classes", ["one"], "final: figures of each class, but not of 1 classes"),
        ("n", 0, "final.n: input should be greater than or equal to 1"),
        ("natural", {"value": 5.0, "interval": [0.1, 0.2]}, "final.natural.value: input should be less than"),
        ("natural", {"value": 0.5, "interval": [10**200, 0.2]}, "final.natural.interval.0: input should be less than"),
        ("warnings", "many", "final.warnings: input should be a valid list"),
        ("curve", [{"value": 0.5, "interval": [0, 1], "epsilon-255": "x"}], "final.curve.0.epsilon-255: input should"),
    ],
)
def test_figures_of_another_shape_are_named(received: Path, key: str, value: object, told: str) -> None:
    summary = json.loads((received / "summary.json").read_text())
    summary["final"][key] = value
    (received / "summary.json").write_text(json.dumps(summary))
    for command in ("report", "compare", "export"):
        with pytest.raises(FedShieldError) as caught:
            COMMANDS[command](received)
        assert str(caught.value).startswith(f"{received / 'summary.json'}: damaged, or of another version")
        assert told in str(caught.value)


def test_nothing_is_downloaded_into_a_folder_that_a_run_names(
    received: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSHIELD_CACHE", str(victim.parent / "cache"))
    config = json.loads((received / "config.json").read_text())
    config["data"] |= {"name": "cifar10", "root": str(victim / "new")}
    (received / "config.json").write_text(json.dumps(config))
    before = content(victim)
    with pytest.raises(FedShieldError, match="cifar10 is not there; give its place, or where to download it to, with"):
        COMMANDS["evaluate"](received)
    assert content(victim) == before
    assert not (victim / "new").exists()


@pytest.mark.parametrize(("key", "value"), [("update-norm", "long"), ("update-norm", -1), ("loss", [1.0])])
def test_what_a_run_goes_on_from_is_a_number(received: Path, key: str, value: object) -> None:
    path = received / "metrics.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    path.write_text(f"{json.dumps({**last, key: value})}\n")
    for command in ("report", "compare", "resume"):
        with pytest.raises(FedShieldError, match=f"metrics.jsonl: line 1: damaged, or of another version.*{key}: "):
            COMMANDS[command](received)


@pytest.mark.parametrize(
    "clients", [{"x": {"loss": 1, "seconds": 1}}, {"1": {"loss": 1, "seconds": 1, "update-norm": "long"}}]
)
def test_clients_have_numbers(received: Path, clients: object) -> None:
    path = received / "metrics.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    path.write_text(f"{json.dumps({**last, 'clients': clients})}\n")
    with pytest.raises(FedShieldError, match=r"metrics.jsonl: line 1: damaged, or of another version.*clients\."):
        COMMANDS["report"](received)


def test_a_diagnosis_of_somebody_else_writes_nothing_invisible_into_the_report(received: Path) -> None:
    path = received / "metrics.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    told = {"action": "a\x1b", "trouble": "b\u202e", "told": "<script>\x1b]0;"}
    found = {"name": "c\u202e", "severity": "mild", "evidence": "\x1b[31m", "since-round": 1, "clean-rounds": 0}
    path.write_text(f"{json.dumps({**last, 'diagnoses': [found], 'repairs': [told]})}\n")
    COMMANDS["report"](received)
    page = (received / "report.html").read_text()
    assert "&lt;script&gt;\\x1b]0;" in page
    assert not {"\x1b", "\u202e"} & {*page}


def test_rounds_that_are_lost_are_told_where_the_run_is_read(received: Path) -> None:
    assert "has no line" not in write_report(received).read_text()
    assert "has no line" not in told_by_compare(received)
    path = received / "metrics.jsonl"
    first, second = path.read_text().splitlines(keepends=True)
    for lines, told in ((first, "has no line for round 2"), (second + first, "is not in order")):
        path.write_text(lines)
        assert f"<li>metrics.jsonl {told}: the curves, " in write_report(received).read_text()
        assert f"received: metrics.jsonl {told}: its minutes" in told_by_compare(received)


def told_by_compare(run_dir: Path) -> str:
    return "\n".join(note for sheet in compare_runs([run_dir, run_dir.with_name("finished")]) for note in sheet.notes)


HEADERS = (b"", b"\xff" * 8 + b"{}", (10**9).to_bytes(8, "little") + b"{}", b"\2" + bytes(7) + b"[]")


@pytest.mark.parametrize("header", HEADERS)
def test_weights_that_are_none_are_one_line(received: Path, header: bytes) -> None:
    checkpoint = json.loads((received / "checkpoint" / "checkpoint.json").read_text())
    model = received / "checkpoint" / checkpoint["model"]
    model.write_bytes(header)
    checkpoint["sha256"] = hashlib.sha256(header).hexdigest()
    (received / "checkpoint" / "checkpoint.json").write_text(json.dumps(checkpoint))
    for command in ("export", "evaluate", "attack"):
        with pytest.raises(FedShieldError) as caught:
            COMMANDS[command](received)
        assert str(caught.value).startswith(f"{model}: damaged (")


def npy(shape: tuple[int, ...], data: bytes) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def test_arrays_that_unpack_to_too_much_are_not_unpacked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = ArrayStore(tmp_path)
    caplog.set_level("DEBUG", "fedshield")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("values.npy", npy((2**26,), bytes(2**29)))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**20
    assert kept.load("bomb") is None
    assert "bomb.npz: unpacks to more than " in caplog.text
    with zipfile.ZipFile(tmp_path / "boast.npz", "w") as archive:
        archive.writestr("values.npy", npy((10**12,), bytes(80)))
    assert kept.load("boast") is None
    assert "boast.npz: values.npy is not as large as its header says" in caplog.text
    kept.save("ours", {"values": np.zeros(10)})
    found = kept.load("ours")
    assert found is not None
    assert found["values"].tolist() == [0.0] * 10


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("predictions", np.zeros((2, 3), np.int16)),
        ("predictions", np.full((2, 40), 99, np.int16)),
        ("labels", np.zeros((40, 1), np.int64)),
        ("labels", np.full(40, np.nan)),
        ("attacks", np.array(["natural"])),
        ("example_adversarial", np.zeros((1, 3, 9, 9), np.float32)),
        ("example_labels", np.array([-1])),
        ("classes", np.array("one")),
        ("images", np.zeros(3)),
    ],
)
def test_predictions_of_another_shape_are_left_out(received: Path, name: str, array: np.ndarray) -> None:
    record = read_summary(received)["final"]
    kept = ArrayStore(received / "evaluations")
    arrays = kept.load(record["predictions"])
    assert arrays is not None
    kept.save(record["predictions"], {**arrays, name: array})
    assert "Adversarial examples" not in write_report(received).read_text()
    COMMANDS["compare"](received)


def test_passes_of_another_shape_are_measured_again(received: Path) -> None:
    COMMANDS["evaluate"](received)
    for path in (received / "evaluations").glob("*/*.npz"):
        ArrayStore(path.parent).save(path.stem, {"done": np.array(-5), "predictions": np.zeros(3, np.int16)})
    COMMANDS["evaluate"](received)
    first, second = read_evaluations(received)
    assert {**first, "at": ""} == {**second, "at": ""}


DEEP = b"x = " + b"[" * 100_000 + b"]" * 100_000
BAD_TOML = (DEEP, b"x." * 5000 + b"y = 1", b"seed = " + b"9" * 5000, b"\xff")


@pytest.mark.parametrize("content", BAD_TOML, ids=["arrays", "tables", "digits", "bytes"])
def test_toml_made_to_do_harm_is_one_line_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    shutil.copy(STUDY / "results.csv", tmp_path)
    commands: list[Callable[[], object]] = [
        lambda: write_report(tmp_path),
        lambda: make_tables(tmp_path),
        lambda: plot_study(tmp_path),
        lambda: load_study(path),
        lambda: read_toml(path),
    ]
    for command in commands:
        with pytest.raises(FedShieldError) as caught:
            command()
        assert str(caught.value).startswith(f"{path}: not valid TOML: ")
        assert "\n" not in str(caught.value)
