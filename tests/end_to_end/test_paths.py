"""Paths as users write them: what no system can have is one line, in every command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import FedShieldError
from common.paths import ROOT, cache_dir, whole_path
from simulations.cli.main import main

NOBODYS = "~no-such-user/x"
LONG = "x" * 300
NOWHERE = ["--superlink", "localhost:1", "--wait", "0"]


def test_a_path_is_whole_wherever_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert whole_path("~/data") == Path("/home/me/data")
    assert whole_path(Path("data")) == tmp_path / "data"
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert whole_path("/data") == Path("/data")
    with pytest.raises(FedShieldError, match="the working directory no longer exists"):
        whole_path("data")


@pytest.mark.parametrize(
    ("fedshield", "xdg", "place"),
    [
        ("/mine", "/caches", "/mine"),
        ("~/mine", "/caches", "/home/me/mine"),
        (None, "/caches", "/caches/fedshield"),
        ("", "/caches", "/caches/fedshield"),
        (None, None, "/home/me/.cache/fedshield"),
        (None, "", "/home/me/.cache/fedshield"),
        (None, "caches", "/home/me/.cache/fedshield"),  # the XDG specification: one that is not absolute is ignored
    ],
)
def test_the_cache_is_the_folder_of_the_variable_or_the_users_own(
    monkeypatch: pytest.MonkeyPatch, fedshield: str | None, xdg: str | None, place: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("FEDSHIELD_CACHE", fedshield), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_dir() == Path(place)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["run", place] for place in (NOBODYS, LONG)),
        *(["run", "--results", place] for place in (NOBODYS, LONG)),
        *(["run", "--resume", place] for place in (NOBODYS, LONG)),
        *(["run", "--set", "data.name=cifar10", "--set", f"data.root={place}"] for place in (NOBODYS, LONG)),
        *(["run", "--set", f"loss.name={place}.py:loss"] for place in (NOBODYS, LONG)),
        *(["centralized", place] for place in (NOBODYS, LONG)),
        *(["evaluate", place] for place in (NOBODYS, LONG)),
        *(["partitions", "--set", "data.name=folder", "--set", f"data.root={place}"] for place in (NOBODYS, LONG)),
        *(["sweep", place] for place in (NOBODYS, LONG)),
        *(["sweep", "cpu-sharing", "--results", place] for place in (NOBODYS, LONG)),
        *(["tables", place] for place in (NOBODYS, LONG)),
        *(["doctor", place] for place in (NOBODYS, LONG)),
        *(["report", place] for place in (NOBODYS, LONG)),
        *(["compare", place, place] for place in (NOBODYS, LONG)),
        *(["export", place] for place in (NOBODYS, LONG)),
        *(["attack", place, "cat.jpg"] for place in (NOBODYS, LONG)),
        *(["certs", "--out", place] for place in (NOBODYS, LONG)),
        *(["split-data", "--set", "data.max-examples=200", "--out", place] for place in (NOBODYS, LONG)),
        *(["register", place, *NOWHERE] for place in (NOBODYS, LONG)),
        *(["submit", "--app", place, *NOWHERE] for place in (NOBODYS, LONG)),
        ["submit", "--ca", NOBODYS, *NOWHERE],
    ],
    ids=lambda arguments: " ".join(word[:20] for word in arguments),
)
def test_a_place_that_cannot_be_is_one_line_in_every_command(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fedshield", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert told.startswith("fedshield: ")
    assert told.count("\n") == 1, told
    assert "no-such-user" in told or "xxx" in told


# A user of a namespace of its own has no name there, whoever may start the tests.
NAMELESS = ["unshare", "--user", "--map-user=12345", "--map-group=12345", "env", "-u", "HOME", "-u", "XDG_CACHE_HOME"]

# One process, since each would import for seconds.
COMMANDS = """
import os, sys
from simulations.cli.main import main
def do(*arguments):
    sys.argv = ["fedshield", *arguments]
    try:
        main()
    except SystemExit as end:
        print("status", end.code, file=sys.stderr)
partitions = "partitions", "--set", "data.max-examples=200"
do(*partitions)
os.environ["FEDSHIELD_CACHE"] = os.path.abspath("cache")
do(*partitions)
do("report", "runs")
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "--user", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs namespaces of users",
)
def test_a_user_without_a_name_and_a_home_is_told_which_folder_to_set(tmp_path: Path) -> None:
    known = {name: value for name, value in os.environ.items() if name != "FEDSHIELD_CACHE"}
    done = subprocess.run(
        [*NAMELESS, sys.executable, "-c", COMMANDS],
        cwd=tmp_path,
        env={**known, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    unset, status, well, report, refused = done.stderr.splitlines()
    assert unset == (
        "fedshield: ~/.cache/fedshield: this system has no such home folder; set FEDSHIELD_CACHE to a folder of "
        "your own"
    )
    assert (status, well, refused) == ("status 1", "status 0", "status 1")
    assert report.startswith(f"fedshield: {tmp_path}/runs: neither a run nor a study")
