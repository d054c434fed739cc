"""A run, a study and a model that somebody has sent, made to harm who opens them: through every command.

No code of theirs runs, and no letter of theirs reaches the terminal as anything but a letter.
"""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import save_file

from common.exported import ARCHITECTURE
from common.files import read_json, replace_json
from simulations.study_directory import TRAINED
from tests.helpers.program import PROGRAM, invoke
from tests.helpers.runs import run

SCREEN = "\x1b[2J\x1b]0;owned\x07\x9b1mup\r"
HTML = "<img src=x onerror=alert(1)>"
NAMES = [
    f"{SCREEN}[red]ant",
    "[bold]",
    f"a|b {HTML}".replace("/", ""),
    "two\nfedshield: all is well",
    "\u202egnp",
]
WORDS = f"{SCREEN}[/bold] [x](http://y) | {HTML} </script><script>alert(1)</script>\nfedshield: all is well \u202e"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("received")


@pytest.fixture(scope="module")
def mark(place: Path) -> Path:
    """Is there once code has run that nobody asked for."""
    return place / "mark"


@pytest.fixture(scope="module")
def images(place: Path) -> Path:
    """An image folder whose classes have such names."""
    root = place / f"pets {SCREEN}[bold]"
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name in NAMES:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def trap(file: Path, mark: Path) -> Path:
    """Write code that leaves a mark."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\ndef it(*_, **__): ...\n")
    return file


@pytest.fixture(scope="module")
def received(place: Path, images: Path, mark: Path) -> Path:
    """A run whose every file says what it should not."""
    data = {"data__name": "folder", "data__root": str(images), "data__image_size": 16, "data__max_examples": 0}
    division = {"federation__clients": 2, "partition__scheme": "iid", "federation__rounds": 1}
    path = run(place, "made", **data, **division, evaluate__attacks="fgsm", evaluate__final_examples=10)
    path = path.rename(place / f"{SCREEN}[bold]{HTML}|".replace("/", ""))
    config = read_json(path / "config.json", "")
    config["loss"]["name"] = f"{trap(place / f'{SCREEN}<b>.py', mark)}:it"
    config["results"]["name"] = f"../{WORDS}"
    config["results"]["dir"] = WORDS
    replace_json(path / "config.json", config)
    trap(path / "own" / "loss.py", mark)
    environment = read_json(path / "environment.json", "")
    told = dict.fromkeys(("processor", "device", "command", "folder", "system", "python"), WORDS)
    replace_json(path / "environment.json", {**environment, **told, "packages": {"fedshield": WORDS, WORDS: WORDS}})
    summary = read_json(path / "summary.json", "")
    final = summary["final"]
    summary["final"] = {**final, "warnings": [WORDS], "robust": {**final["robust"], WORDS: final["worst"]}}
    replace_json(path / "summary.json", {**summary, "selected-by": WORDS})
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    lines[-1] |= {"refused": {"0": WORDS}, "retried": {"1": WORDS}}
    lines[-1]["evaluation"]["robust"][WORDS] = lines[-1]["evaluation"]["worst"]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "evaluations.jsonl").write_text(json.dumps({**summary["final"], "round": 1, "at": WORDS}) + "\n")
    return path


@pytest.fixture(scope="module")
def study(place: Path) -> Path:
    folder = place / f"study {SCREEN}[bold]"
    folder.mkdir()
    cells = dict.fromkeys(TRAINED, "1") | {"natural": "0.5", "worst": "0.4", "processor": WORDS, "code": SCREEN}
    header = ["run", WORDS, "seed", *TRAINED[2:5], WORDS + "2", *TRAINED[5:]]
    quoted = lambda cell: '"' + cell.replace('"', '""') + '"'  # noqa: E731
    rows = [
        [cells.get(name, "0.3" if name.endswith("2") else f"{WORDS}{number}") for name in header] for number in (1, 2)
    ]
    text = "\n".join(",".join(map(quoted, row)) for row in (header, *rows)) + "\n"
    (folder / "results.csv").write_text(text, newline="")
    (folder / "study.toml").write_text(f"title = {json.dumps(WORDS)}\n[set]\n{json.dumps(WORDS)} = 1\n")
    return folder


@pytest.fixture(scope="module")
def model(place: Path, mark: Path) -> Path:
    """A lone model, whose metadata names a file of this machine."""
    network = {"name": f"{trap(place / 'tool.py', mark)}:it", "width": 8, "activation": "relu", "downsample": True}
    told = json.dumps({"network": {**network, "stem": "small"}, "classes": NAMES, "image-size": 32})
    save_file({"x": torch.zeros(1)}, place / "model.safetensors", {ARCHITECTURE: told})
    return place / "model.safetensors"


def fedshield(place: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in this process."""
    return checked(place, invoke(*arguments, cwd=place, XDG_STATE_HOME=str(place / "state")))


def process(place: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, to whose streams it writes."""
    environment = {**os.environ, "COLUMNS": "120", "XDG_STATE_HOME": str(place / "state"), "PYTHONUTF8": "1"}
    command = [PROGRAM, *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, timeout=300, check=False)
    return checked(
        place, subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())
    )


def checked(place: Path, done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """Return a command that has ended; whatever it has printed must be text."""
    for told in (done.stdout, done.stderr):
        assert told.replace("\n", "").replace("\t", "").isprintable(), told
        assert not re.search(r"^fedshield: all is well", told, re.MULTILINE)
        assert "Traceback" not in told, told
    assert not (place / "mark").exists(), done.args
    return done


def refused(done: subprocess.CompletedProcess[str], told: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert told in line


def letters(told: str) -> str:
    """Return what is printed without blanks, line breaks and the lines of tables, which may cut a name."""
    return re.sub(r"[^\x21-\x7e]", "", told)


class Tags(HTMLParser):
    """The elements of a page, and the scripts in it that are not data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.scripts += tag == "script" and ("type", "application/json") not in attrs
        assert not any(name.startswith("on") for name, _ in attrs)


def test_report(place: Path, received: Path, study: Path) -> None:
    for path, command in ((received, process), (study, fedshield)):
        done = command(place, "report", path, "--out", "report.html")
        assert (done.returncode, done.stderr) == (0, "")
        tags = Tags((place / "report.html").read_text())
        assert tags.scripts == 2  # Vega's, and that of the page
        assert "img" not in tags.found or path == received


def test_compare_and_tables(place: Path, received: Path, study: Path) -> None:
    other = shutil.copytree(received, received.with_name(f"other{received.name}"))
    config = read_json(other / "config.json", "")
    config["loss"]["name"] = config["loss"]["name"].replace("<b>", "[/red]")
    replace_json(other / "config.json", config)
    done = fedshield(place, "compare", received, other)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[/red].py" in letters(done.stdout)
    done = fedshield(place, "tables", study)
    assert (done.returncode, done.stderr) == (0, "")
    drawn = MarkdownIt("commonmark").enable("table").render((study / "tables.md").read_text())
    assert {"img", "script", "a"}.isdisjoint(Tags(drawn).found)


def test_evaluate_and_export(place: Path, received: Path) -> None:
    done = fedshield(place, "evaluate", received, "--attacks", "fgsm", "--examples", "10")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[red]ant" in letters(done.stdout)
    done = fedshield(place, "export", received, "--out", "exported")
    assert (done.returncode, done.stderr) == (0, "")
    card = MarkdownIt("commonmark").enable("table").render((place / "exported" / "README.md").read_text())
    assert {"img", "script", "a", "b"}.isdisjoint(Tags(card).found)
    assert card.count("<tr>") == 5  # the heading, natural, two attacks and the worst case
    picture = place / "broken\x1b[2J.png"
    picture.write_text("not a picture")
    refused(fedshield(place, "attack", "exported/model.safetensors", picture), "broken\\x1b[2J.png: not a readable")


def test_attack(place: Path, received: Path, images: Path, model: Path) -> None:
    picture = images / "test" / NAMES[1] / "0.png"
    other = shutil.copytree(received, place / "[bold]")
    division = read_json(other / "partition.json", "")
    replace_json(other / "partition.json", {**division, "classes": [*NAMES[:1], "[/bold]", *NAMES[2:]]})
    done = fedshield(place, "attack", other, picture, "--label", "[/bold]")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[/bold]" in done.stdout
    refused(fedshield(place, "attack", model, picture, "--trust-code"), "tool.py; only model.py next to it may run")


def test_resume(place: Path, received: Path) -> None:
    given = ("--resume", received, "--set", "federation.rounds=2")
    refused(fedshield(place, "run", *given), "loss.py: this code has not run here before, and would run now; read it")


def test_links(place: Path, received: Path, study: Path, images: Path) -> None:
    """Beside the names and words: a link out of the folder, which holds every command back."""
    key = place / "key"
    key.write_text("the reader's own")
    run_dir, study_dir = (shutil.copytree(made, place / f"linked {made.name}") for made in (received, study))
    (run_dir / f"{SCREEN}[bold].partial").symlink_to(key)
    (study_dir / "tables.md.partial").symlink_to(key)
    picture = images / "test" / NAMES[1] / "0.png"
    for command in (
        *(("report", run_dir), ("compare", received, run_dir), ("evaluate", run_dir), ("export", run_dir)),
        *(("attack", run_dir, picture), ("run", "--resume", run_dir), ("tables", study_dir)),
    ):
        refused(fedshield(place, *command), "is a link to")
    assert key.read_text() == "the reader's own"


def test_partitions(place: Path, images: Path) -> None:
    settings = ["data.name=folder", f"data.root={images}", "partition.scheme=iid", "data.image-size=16"]
    changes = [part for setting in settings for part in ("--set", setting)]
    done = fedshield(place, "partitions", *changes, "--set", "data.max-examples=0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[red]ant" in letters(done.stdout)
