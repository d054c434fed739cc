"""The installed package: what is in it, and that it works, and stands in nobody's way."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from common.errors import FedShieldError
from common.models import Normalize
from common.paths import ROOT, source
from common.user_code import load_user_code
from hatch_build import FOLDERS, PACKAGE, renamed, write_package
from simulations.studies.gather import code_version
from tests.helpers.bench import running
from tests.helpers.program import tiny_options
from tests.helpers.runs import figures, run

MINE = """
import common
from torch import nn


def network(classes, width, activation):
    convolution = nn.Conv2d(3, common.channels(width), 5, stride=4)
    return nn.Sequential(convolution, activation(), nn.Flatten(), nn.Linear(49 * convolution.out_channels, classes))
"""
ALONE = MINE.replace("import common\n", "").replace("common.channels(width)", "2 * width")


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
    (tmp_path / "alone.py").write_text(ALONE)
    checkout = run(tmp_path, "checkout", model__name=f"{tmp_path / 'alone.py'}:network")
    assert figures(checkout) == figures(tmp_path / "runs" / "first")


APP = """
import shutil, sys
from fedshield.simulations.deployment.app_folder import app_folder
with app_folder(None, {"model.name": "sent/mine.py:network", "loss.name": "mixed-at"}) as app:
    shutil.copytree(app, sys.argv[1])
"""


def test_an_app_made_of_the_package_gives_the_numbers_of_the_checkout(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "mine.py").write_text(ALONE)
    made = python(installed, "-c", APP, "app", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    own = {"model.name": "sent/mine.py:network"}
    with running(tmp_path, 2, **own) as bench:
        assert bench.finish(bench.submit(tmp_path / "app")) == "finished:completed", bench.logs()
    monkeypatch.chdir(tmp_path)
    simulated = run(
        tmp_path, "simulated", federation__clients=2, partition__scheme="iid", model__name=own["model.name"]
    )
    assert figures(tmp_path / "runs" / "run") == figures(simulated)


def test_a_file_that_an_app_cannot_hold_is_refused(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "mine.py").write_text(ALONE)
    made = python(installed, "-c", APP.replace("sent/", "../"), "app", cwd=tmp_path / "here")
    assert made.stderr.splitlines()[-1].endswith(
        f"model.name = ../mine.py:network: {tmp_path / 'here' / '..' / 'mine.py'} cannot be sent to the clients; put "
        "the file into the folder where you start, and write model.name = mine.py:network"
    )


def test_a_file_for_a_checkout_is_told_the_names_of_the_package(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from common.models import Normalize\n\nnetwork = Normalize\n")
    done = python(installed, "-m", PACKAGE, "doctor", "--set", "model.name=mine.py:network", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        f"model.name = mine.py:network: {tmp_path / 'mine.py'}, line 1: ModuleNotFoundError: No module named 'common'; "
        "FedShield's own is fedshield.common where it is installed as a package" in done.stdout + done.stderr
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_a_users_module_that_hides_a_folder_of_the_checkout_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").touch()
    done = subprocess.run(
        [sys.executable, "-m", PACKAGE, "doctor"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"fedshield: {tmp_path / name}.py: Python finds this as {name!r} instead of {ROOT / name}; give yours another "
        "name, start from another folder, or install FedShield as a package\n"
    )


def test_a_users_file_that_means_a_module_beside_it_is_told_whose_it_gets(tmp_path: Path) -> None:
    (tmp_path / "common.py").touch()
    (tmp_path / "models").mkdir()
    for code, imported in (("import common\n", "common"), ("def f():\n    from common import h\n", "common.h")):
        (tmp_path / "mine.py").write_text(code)
        with pytest.raises(FedShieldError) as found:
            load_user_code("model.name", f"{tmp_path / 'mine.py'}:network")
        assert str(found.value) == (
            f"{tmp_path / 'mine.py'}: imports {imported}, and common is {ROOT / 'common'} here, not "
            f"{tmp_path / 'common.py'}; put all that yours needs into one file, or give the other a name of its own"
        )
    (tmp_path / "mine.py").write_text("from common.models import Normalize as network\nimport models\n")
    with pytest.raises(FedShieldError, match="No module named 'models'"):  # FedShield's common is meant, and is there
        load_user_code("model.name", f"{tmp_path / 'mine.py'}:network")


def test_a_users_file_beside_a_clone_gets_what_fedshield_gives(tmp_path: Path) -> None:
    (tmp_path / "fedshield").mkdir()
    reference = f"{tmp_path / 'mine.py'}:network"
    (tmp_path / "mine.py").write_text("from fedshield import Normalize as network\n")
    assert load_user_code("model.name", reference) is Normalize
    (tmp_path / "mine.py").write_text("from fedshield import nothing\n")
    told = re.escape(f"cannot import name 'nothing' from 'fedshield' ({ROOT / 'fedshield' / '__init__.py'})")
    with pytest.raises(FedShieldError, match=rf"line 1: ImportError: {told}"):
        load_user_code("model.name", reference)
