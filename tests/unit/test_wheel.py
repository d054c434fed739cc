"""The installed package: what is in it, and that it works, and stands in nobody's way."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from common.paths import ROOT, source
from hatch_build import FOLDERS, PACKAGE, renamed, write_package
from simulations.studies.gather import code_version
from tests.helpers.program import tiny_options
from tests.helpers.runs import figures, run

MINE = """
import common
from torch import nn


def network(classes, width, activation):
    convolution = nn.Conv2d(3, common.channels(width), 5, stride=4)
    return nn.Sequential(convolution, activation(), nn.Flatten(), nn.Linear(49 * convolution.out_channels, classes))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that has the package alone, as pip would install it."""
    folder = tmp_path_factory.mktemp("site")
    write_package(ROOT, folder / PACKAGE)
    return folder


def python(installed: Path, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python that finds the package and what it needs, but not the checkout, which is there by a .pth file."""
    path = f"{installed}:{sysconfig.get_path('purelib')}"
    return subprocess.run(
        [sys.executable, "-S", *words],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": path, "FEDSHIELD_CACHE": str(cwd / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from common.paths import ROOT\n", "from fedshield.common.paths import ROOT\n"),
        ("from client import app, tasks\n", "from fedshield.client import app, tasks\n"),
        ("def f():\n    from server.app import (\n        app,\n    )\n", None),
        ("x = 'é'; from common import paths\n", "x = 'é'; from fedshield.common import paths\n"),
        (
            '"""A.\n\n>>> from common.words import near\n"""\n',
            '"""A.\n\n>>> from fedshield.common.words import near\n"""\n',
        ),
        ("from commonmark import common\nimport server_thing\nfrom . import common\n", ""),
        ('told = "from common import x"\n', ""),
    ],
)
def test_only_imports_of_our_folders_are_written_anew(before: str, after: str | None) -> None:
    expected = before.replace("from server", "from fedshield.server") if after is None else after or before
    assert renamed(before) == expected


def test_an_import_that_binds_the_name_of_a_folder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"line 2: import common\.paths; write from \.\.\. import \.\.\."):
        renamed("\nimport common.paths\n")


def test_everything_is_in_the_package(installed: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", PACKAGE, *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = {name.removeprefix(f"{PACKAGE}/") for name in listed.stdout.splitlines()}
    packed = {str(path.relative_to(installed / PACKAGE)) for path in (installed / PACKAGE).rglob("*") if path.is_file()}
    assert packed == {*ours, "common/pyproject.toml"}


def test_kept_evaluations_and_studies_know_the_sources_again(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source(ROOT / "server/app.py") == (ROOT / "server/app.py").read_bytes()
    before = code_version()
    monkeypatch.setattr("common.paths.PACKAGE", PACKAGE)
    monkeypatch.setattr("simulations.studies.gather.ROOT", installed / PACKAGE)
    assert source(installed / PACKAGE / "server/app.py") == (ROOT / "server/app.py").read_bytes()
    assert code_version() == before


def test_a_run_and_its_report_work_where_a_user_has_modules_of_the_same_names(installed: Path, tmp_path: Path) -> None:
    for name in FOLDERS:
        (tmp_path / f"{name}.py").write_text("def channels(width):\n    return 2 * width\n")
    (tmp_path / "mine.py").write_text(MINE)
    options = [*tiny_options(model__name="mine.py:network"), "--engine", "inprocess", "--name", "first"]
    for words in (["run", *options], ["report", "runs/first"]):
        done = python(installed, "-m", PACKAGE, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "first" / "report.html").stat().st_size > 10_000
    assert '"fedshield run ' in (tmp_path / "runs" / "first" / "environment.json").read_text()
    (tmp_path / "alone.py").write_text(MINE.replace("import common", "").replace("common.channels(width)", "2 * width"))
    checkout = run(tmp_path, "checkout", model__name=f"{tmp_path / 'alone.py'}:network")
    assert figures(checkout) == figures(tmp_path / "runs" / "first")
