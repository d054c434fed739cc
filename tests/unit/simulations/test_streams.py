"""What happens to a command whose output is not read, cannot be written, or has characters that its encoding lacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.paths import ROOT
from tests.helpers.images import make_folder
from tests.helpers.program import PROGRAM, tiny_options

# Prints more than any pipe holds, and then does what it is there for.
SCRIPT = """
import sys
from pathlib import Path
from simulations.terminal.streams import lasting_streams
with lasting_streams():
    for number in range(30_000):
        print("é", number)
    Path(sys.argv[1]).write_text("done")
    sys.exit(0)
"""


def shell(command: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of bash's; it ends with the status of the first program of a pipeline."""
    return subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}", "bash", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=300,
        check=False,
    )


GONE = "fedshield: the output of this command is no longer read; the command continues without it\n"
FULL = "fedshield: standard output: No space left on device; the command continues without it\n"


@pytest.mark.parametrize(
    ("into", "status", "told"),
    [("| head -1", 0, GONE), ("> /dev/full", 1, FULL), (">&-", 0, ""), (">/dev/full 2>&1", 1, ""), ("2>&- >&-", 0, "")],
)
def test_a_command_goes_on_whatever_becomes_of_its_output(tmp_path: Path, into: str, status: int, told: str) -> None:
    done = shell(f'"$@" {into}', sys.executable, "-c", SCRIPT, "end", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert (tmp_path / "end").read_text() == "done"
    assert (done.returncode, done.stderr) == (status, told)


def test_letters_that_the_output_lacks_are_spelled_out(tmp_path: Path) -> None:
    there = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = shell('"$@"', sys.executable, "-c", SCRIPT, "end", cwd=tmp_path, **there)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("\\xe9 0\n\\xe9 1\n")


def test_a_run_survives_the_end_of_its_reader(tmp_path: Path) -> None:
    run = [PROGRAM, "run", "--json", *tiny_options(federation__clients=2, partition__scheme="iid"), "--name", "it"]
    done = shell('"$@" | head -1', *run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["event"] == "start"
    assert GONE in done.stderr
    assert (tmp_path / "runs/it/figures/accuracy.png").exists()


# One process for several commands, since each would import for seconds; what each has said ends with its status.
COMMANDS = """
import json, sys
from simulations.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["fedshield", *arguments]
    try:
        main()
    except SystemExit as end:
        print("status", end.code, file=sys.stderr)
"""


def test_a_system_that_knows_ascii_alone_is_no_reason_for_a_traceback(tmp_path: Path) -> None:
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    (tmp_path / "place.toml").write_text('[results]\ndir = "Läufe"\n', "utf-8")
    make_folder(tmp_path / "pets")
    for part in ("train", "test"):
        (tmp_path / "pets" / part / "cat").rename(tmp_path / "pets" / part / "chaton é")
    folder = ["--set", "data.name=folder", "--set", "data.root=pets", "--set", "partition.scheme=iid"]
    commands = [["--set", "data.max-examples=200"], ["place.toml"], folder]
    told = json.dumps([["partitions", *options] for options in commands])
    done = shell('"$@"', sys.executable, "-c", COMMANDS, told, cwd=tmp_path, **ascii_alone)
    well, name, _, letters, _ = done.stderr.splitlines()
    assert well == "status 0"
    assert name.startswith(f"fedshield: {tmp_path}/L\\xe4ufe: has characters that file names cannot have")
    assert "is not named in UTF-8; set LC_ALL=C.UTF-8, since names are ascii here" in letters
    assert done.stderr.count("status 1") == 2
