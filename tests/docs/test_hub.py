"""Flower's conventions: the app can be built and published, and its README says to the hub what it is."""

import importlib
import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from common.paths import ROOT
from tests.helpers.bench import BIN


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that are in the repository, and no others."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_flwr_builds_an_app_with_all_of_its_code(checkout: Path, tmp_path: Path) -> None:
    built = subprocess.run(
        [BIN / "flwr", "build", "--app", checkout],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (fab,) = tmp_path.glob("fedshield.fedshield.*.fab")
    packed = set(zipfile.ZipFile(fab).namelist())
    code = {
        str(path.relative_to(checkout))
        for package in ("client", "common", "fedshield", "server", "simulations")
        for ending in ("py", "toml")
        for path in (checkout / package).rglob(f"*.{ending}")
    }
    assert {"server/app.py", "client/app.py", "simulations/presets/cpu-cifar10.toml"} <= code
    assert code | {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE"} <= packed


def test_flowers_own_checks_before_publishing_pass(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish = importlib.import_module("flwr.cli.app_cmd.publish")
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    assert len(project["description"]) <= 200  # longer ones are asked about
    publish._validate_files(publish._collect_file_paths(checkout))
    assert "Validation passed" in capsys.readouterr().out


def test_the_readme_has_the_front_matter_of_the_hub() -> None:
    front = re.match(r"---\n(.*?)\n---\n\n# FedShield", (ROOT / "README.md").read_text(), re.DOTALL)
    assert front
    told = dict(re.fullmatch(r"(\w+): \[(.+)\]", line).groups() for line in front[1].splitlines())  # type: ignore[union-attr]
    assert list(told) == ["tags", "dataset", "framework"]
    assert all(re.fullmatch(r"[\w -]+(, [\w -]+)*", values) for values in told.values())


def test_the_citation_names_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {project['version']}\n" in cited
    assert f"\nlicense: {project['license']}\n" in cited
    assert f"\n      version = {{{project['version']}}},\n" in (ROOT / "README.md").read_text()


def test_the_badges_tell_what_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    badges = dict(re.findall(r"^!\[(\w+) (.+)\]\(", (ROOT / "README.md").read_text(), re.MULTILINE))
    (needed,) = (line for line in project["dependencies"] if line.startswith("flwr["))
    ranges = {"Python": (project["requires-python"], " to "), "Flower": (needed, " and ")}
    for name, (given, between) in ranges.items():
        first, past = map(int, re.findall(r"[><]=?\d+\.(\d+)", given))
        major = re.search(r"(\d+)\.", given)
        assert major
        assert badges[name] == f"{major[1]}.{first}{between}{major[1]}.{past - 1}"
    assert badges["License"] == project["license"]
