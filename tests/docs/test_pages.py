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

from common.paths import ROOT
from simulations.cli.main import app
from tests.helpers.bench import BIN
from tests.helpers.pages import blocks

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
# What the shell finds under the names in OURS. It makes short what would train or measure for long.
SHIM = f"""#!/usr/bin/env bash
set -e
program=${{0##*/}}
short="--set threads=1 --set data.max-examples=300 --set federation.rounds=1 --set centralized.epochs=1
    --set model.width=4 --set evaluate.examples=10 --set evaluate.final-examples=10"
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
        sed -e 's/^seeds = .*/seeds = [1]/' -e '/^"model.width"/d' "$study" > "$file"
        set -- sweep "$file" $short --set sharing.per-class=2 "${{@:3}}" ;;
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
    (code,) = (block for block in blocks("own.md") if block.startswith("import torch.nn"))
    (desk / "own.py").write_text(code)
    (method,) = (block for block in blocks("own.md") if "class FedExP" in block)
    (desk / "fedexp.py").write_text(method)
    (rule,) = (block for block in blocks("own.md") if "def clipped" in block)
    (desk / "clipped.py").write_text(rule)
    (choice,) = (block for block in blocks("own.md") if "def rare" in block)
    (desk / "rare.py").write_text(choice)
    for page, name in (("benchmark.md", "my-method.toml"), ("own.md", "my-images.toml")):
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
