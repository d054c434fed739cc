"""Every command that README and the pages of `docs` print, typed into a shell letter by letter."""

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_group

from common.config.flat import Flat
from common.paths import ROOT
from simulations.cli.main import app
from simulations.shipped import SWEEPS
from simulations.studies.study import load_study, points
from tests.helpers.bench import BIN
from tests.helpers.pages import blocks, own_file

PAGES = ["../README.md", *sorted(path.name for path in (ROOT / "docs").glob("*.md"))]
OURS = ("uv", "fedshield", "python")
# Needs other machines, containers or hours: run by test_flower.py, test_deployment.py, nightly/ and .ci/run.
ELSEWHERE = (
    "docker",
    "git",
    "flwr",
    "ray",
    "pip",
    "pytest",
    "fedshield-superlink",
    "fedshield-supernode",
    "flower-superexec",
)
# Studies that a page shows.
STUDIES = (("benchmark.md", "my-method.toml"), ("own.md", "my-images.toml"))
# What makes a run or a study short. Out of a study's file, these keys are taken: --set may not change a case's own.
SHORT: Flat = {
    "threads": 1,
    "data.max-examples": 300,
    "federation.rounds": 1,
    "centralized.epochs": 1,
    "model.width": 4,
    "evaluate.examples": 10,
    "evaluate.final-examples": 10,
}
SHORT_STUDY: Flat = {**SHORT, "sharing.per-class": 2}
SHORTEN = f"""s/^seeds = .*/seeds = [1]/; /^"?({"|".join(SHORT_STUDY)})"? = /d"""


def settings(changes: Flat) -> str:
    """Return options of a command."""
    return " ".join(f"--set {key}={value}" for key, value in changes.items())


# What the shell finds under the names in OURS. It makes short what would train or measure for long.
SHIM = f"""#!/usr/bin/env bash
set -e
program=${{0##*/}}
short="{settings(SHORT)}"
case "$program $*" in
    "uv run --group dev "*) exec "${{@:4}}" ;;
    "uv run "*) exec "${{@:2}}" ;;
    "uv sync "*|"uv venv "*|"uv pip "*) exit ;;
    "python -m benchmarks."*)
        for option in $(printf '%s\\n' "${{@:3}}" | grep -e ^--); do
            PYTHONPATH={ROOT} {BIN}/python -m "$2" --help | grep -qe "$option" || {{ echo "$2: no $option"; exit 1; }}
        done
        exit ;;
    "fedshield register "*|"fedshield submit "*|*" --ray-address "*) exit ;;
    *"=cifar10 "*|*"=medmnist:"*|*"=tiny-imagenet "*|*"model.weights=torchvision"*) exit ;;  # they download
    *" --resume "*|"fedshield runs"*) ;;
    "fedshield run"*|"fedshield centralized"*) set -- "$@" $short ;;
    "fedshield evaluate"*) set -- "$@" --examples 10 ;;
    "fedshield sweep"*)
        mkdir -p short
        study="$2"
        [ -e "$study" ] || study="{ROOT}/simulations/sweeps/$2.toml"
        file="short/$(basename "$study")"
        sed -E '{SHORTEN}' "$study" > "$file"
        set -- sweep "$file" {settings(SHORT_STUDY)} "${{@:3}}" ;;
esac
exec "{BIN}/$program" "$@"
"""


def draw(folder: Path, count: int) -> None:
    """Write random images of a class."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages take for granted: images, their archive, pictures, a configuration, own code."""
    programs, desk = tmp_path / "programs", tmp_path / "desk"
    programs.mkdir()
    for name in (*OURS, *ELSEWHERE, "browser"):
        (programs / name).write_text(SHIM if name in OURS else "#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("BROWSER", "browser")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for label in range(10):
        draw(desk / "IMAGES" / "train" / str(label), 60)
        draw(desk / "IMAGES" / "test" / str(label), 4)
    for part, owner in itertools.product(("train", "test"), ("alice", "bob")):
        for label in ("cat", "dog"):
            draw(desk / "homes" / part / label / owner, 40)
    (desk / "data").mkdir()
    (desk / "data" / "cifar10-jpeg").symlink_to("../IMAGES")
    for label in ("cat", "dog"):
        draw(desk / "pets" / "train" / label, 150)
        draw(desk / "pets" / "test" / label, 10)
    draw(desk / "pictures" / "cat", 2)
    shutil.copy(desk / "pictures" / "cat" / "0.jpg", desk / "cat.jpg")
    Image.open(desk / "cat.jpg").save(desk / "dog.png")
    (desk / "my.toml").write_text('[model]\nactivation = "gelu"\n')
    for name in ("own.py", "fedexp.py", "clipped.py", "rare.py"):
        (desk / name).write_text(own_file(name))
    for page, name in STUDIES:
        (study,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
        (desk / name).write_text(study)
    return desk


# What else a page takes for granted: runs and models under the names that it gives them.
BEFORE = {
    "running.md": """
        for name in NAME ONE OTHER; do fedshield run --name $name; done
        fedshield sweep cpu-sharing
        fedshield export runs/NAME --out model
    """,
    "data.md": "mkdir -p data/uoft-cs && cp -r IMAGES data/uoft-cs/cifar10",
    "own.md": """
        fedshield run --name NAME
        fedshield run --name THEIRS --set model.name=own.py:network
        fedshield export runs/THEIRS --out theirs
        export XDG_STATE_HOME=$PWD/state
    """,
    "privacy.md": """
        fedshield run --name NAME
        echo 'seeds = [1]' > small.toml
        fedshield sweep small.toml --results runs/STUDY
    """,
    "sharing.md": "cp -r pets/train others",
    "studies.md": """
        fedshield run --name NAME
        fedshield run --name THEIRS --set model.name=own.py:network --set data.name=folder --set data.root=IMAGES
        export XDG_STATE_HOME=$PWD/state
    """,
}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works(desk: Path, page: str) -> None:
    script = f"set -euo pipefail\n{BEFORE.get(page, '')}\n"
    for block in filter(typed, blocks(page)):
        script += f"(\n{block})\n"
    done = subprocess.run(["bash", "-xc", script], cwd=desk, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "Traceback" not in done.stderr


def test_every_study_can_be_made_short(desk: Path) -> None:
    """The test of the pages is slow, so that a new key of a study, or a new block of a page, would not be noticed."""
    (desk / "short").mkdir()
    for file in [*sorted(SWEEPS.glob("*.toml")), *(desk / name for _, name in STUDIES)]:
        short = desk / "short" / file.name
        short.write_text(subprocess.check_output(["sed", "-E", SHORTEN, file], text=True))
        assert points(load_study(short, SHORT_STUDY))


def typed(block: str) -> bool:
    """Tell commands from what they print and from code."""
    return block.split(maxsplit=1)[0] in (*OURS, *ELSEWHERE, "mkdir", "export", "cd")


def test_nothing_that_looks_like_a_command_is_left_out() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert typed(block) or not re.search(r"^(uv|fedshield|docker|python) ", block, re.M), block


def test_what_was_checked_names_tests_that_there_are() -> None:
    rows = re.findall(r"\| `(tests/[^`]+)` \|$", (ROOT / "docs" / "validity.md").read_text(), re.M)
    assert rows
    for row in rows:
        paths, _, chosen = row.partition(" -k ")
        names = [
            name for path in paths.split() for name in re.findall(r"^def (test_\w+)", (ROOT / path).read_text(), re.M)
        ]
        assert all(any(word in name for name in names) for word in chosen.strip('"').split(" or ")), row


def test_readme_names_every_command() -> None:
    section = re.search(r"## Commands\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL)
    assert section
    rows = [line for line in section[1].splitlines() if line.startswith("| ")]
    assert {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)} == set(get_group(app).commands)
