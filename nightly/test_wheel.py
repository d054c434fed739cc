"""The wheel, installed by pip into an environment of its own; and the version of torchattacks that pip takes.

Needs a package index: ``uv run --group dev pytest nightly/test_wheel.py -n 0``, half an hour, and 3.5 GB of packages.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.paths import ROOT

SHORT = [part for key in ("model.width=4", "data.max-examples=300", "federation.rounds=2") for part in ("--set", key)]
STUDY = """
title = "Two"
base = "quickstart"
seeds = [1]

[[case]]
name = "folded"

[[case]]
name = "plain"
"attack.fast" = false
"""


def call(*words: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source and, from it, the wheel; install that with pip; return the folder of its commands."""
    place = tmp_path_factory.mktemp("wheel")
    call("uv", "build", "--out-dir", place, cwd=ROOT)
    (wheel,) = place.glob("*.whl")
    call(sys.executable, "-m", "venv", place / "env", cwd=place)
    call(place / "env" / "bin" / "pip", "install", wheel, cwd=place)
    return place / "env" / "bin"


def test_pip_resolves_the_wheel_and_a_run_a_study_and_their_reports_work(programs: Path, tmp_path: Path) -> None:
    assert "No broken requirements found." in call(programs / "pip", "check", cwd=tmp_path)
    for name in ("client", "common", "server", "simulations"):
        (tmp_path / f"{name}.py").touch()
    call(programs / "fedshield", "run", "--name", "first", *SHORT, cwd=tmp_path)
    call(programs / "fedshield", "report", "runs/first", cwd=tmp_path)
    assert (tmp_path / "runs" / "first" / "report.html").stat().st_size > 10_000
    (tmp_path / "study.toml").write_text(STUDY)
    call(programs / "fedshield", "sweep", "study.toml", *SHORT, cwd=tmp_path)
    call(programs / "fedshield", "report", "runs/study", cwd=tmp_path)
    assert (tmp_path / "runs" / "study" / "report.html").stat().st_size > 10_000


def test_attacks_are_the_same_in_the_version_of_torchattacks_that_pip_takes(tmp_path: Path) -> None:
    other = tmp_path / "other"
    # By --no-config: the checkout's own constraints ask for the tested version.
    call("uv", "pip", "install", "--no-config", "--no-deps", "--target", other, "torchattacks==3.3.0", cwd=ROOT)
    script = ROOT / "nightly" / "torchattacks_digests.py"
    found: list[dict[str, Any]] = [
        json.loads(call(sys.executable, script, cwd=tmp_path, PYTHONPATH=os.pathsep.join([*first, str(ROOT)])))
        for first in ([], [str(other)])
    ]
    assert [each["version"] for each in found] == ["3.5.1", "3.3.0"]
    assert found[0]["digests"] == found[1]["digests"]
