"""Files as several processes write them, some of which are killed, and as a folder of somebody else's has them."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import FedShieldError, explain_os_errors
from common.files import append_json_line, clear_leftovers, read_json, read_json_lines, replace_file, writing
from common.paths import ROOT
from tests.helpers.settings import until


def python(code: str, *arguments: str, inputs: int | None = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=inputs, stdout=subprocess.PIPE, text=True)


def other_names(folder: Path, name: str) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != name]


@pytest.mark.parametrize("planted", ["notes.json", "notes.json.partial", "notes.json.12345678.partial"])
@pytest.mark.parametrize("hard", [False, True])
def test_nothing_is_written_through_a_link(tmp_path: Path, planted: str, hard: bool) -> None:
    victim, folder = tmp_path / "key", tmp_path / "received"
    victim.write_text("secret")
    folder.mkdir()
    (folder / planted).hardlink_to(victim) if hard else (folder / planted).symlink_to(victim)
    replace_file(folder / "notes.json", b"new")
    assert victim.read_text() == "secret"
    assert (folder / "notes.json").read_bytes() == b"new"
    assert not (folder / "notes.json").is_symlink()
    assert other_names(folder, "notes.json") == []


def test_a_line_is_not_appended_through_a_link(tmp_path: Path) -> None:
    victim, path = tmp_path / "start.sh", tmp_path / "lines.jsonl"
    victim.write_text('{"line": 1}\n')
    path.hardlink_to(victim)
    append_json_line(path, {"line": 2})
    append_json_line(path, {"line": 3})
    assert victim.read_text() == '{"line": 1}\n'
    assert read_json_lines(path) == [{"line": 1}, {"line": 2}, {"line": 3}]
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(FedShieldError, match=r"lines\.jsonl: .*; it is a link; replace it by the file itself"):
        append_json_line(path, {"line": 2})
    assert victim.read_text() == '{"line": 1}\n'


WRITE = """
import sys
from pathlib import Path
from common.files import writing
with writing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("begun", flush=True)
    sys.stdin.readline()
    file.write(b" and half")
"""


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "model"
    killed, living = (python(WRITE, str(path)) for _ in range(2))
    for process in (killed, living):
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
    assert len(list(tmp_path.glob("model.*.partial"))) == 2
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    replace_file(path, b"ours")
    clear_leftovers(tmp_path)
    assert len(list(tmp_path.glob("model.*.partial"))) == 1
    assert path.read_bytes() == b"ours"
    living.communicate("\n", timeout=300)
    assert path.read_bytes() == b"half and half"
    assert other_names(tmp_path, "model") == []


def stop_half_way(path: Path) -> None:
    with writing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    replace_file(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        stop_half_way(path)
    assert path.read_bytes() == b"old"
    assert other_names(tmp_path, "model") == []


def test_a_private_file_is_so_from_the_beginning(tmp_path: Path) -> None:
    with writing(tmp_path / "key", 0o600):
        (partial,) = tmp_path.iterdir()
        assert partial.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


APPEND = """
import sys
from pathlib import Path
from common.files import append_json_line
sys.stdin.readline()
for line in range(int(sys.argv[3])):
    append_json_line(Path(sys.argv[1]), {"process": int(sys.argv[2]), "line": line, "long": "x" * 300_000})
"""


def together(code: str, arguments: Sequence[Sequence[str]]) -> None:
    """Run processes that begin their work at the same moment, and wait for them."""
    processes = [python(code, *each) for each in arguments]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=300)
    assert [process.returncode for process in processes] == [0] * len(processes)


@pytest.mark.parametrize("begin", ["", '{"cut sh', "hard link"])
def test_no_line_is_lost_when_several_processes_append(tmp_path: Path, begin: str) -> None:
    path, lines = tmp_path / "evaluations.jsonl", 40
    if begin == "hard link":
        path.write_text("")
        (tmp_path / "another name").hardlink_to(path)
    elif begin:
        path.write_text(begin)
    together(APPEND, [(str(path), str(number), str(lines)) for number in range(6)])
    found = read_json_lines(path)
    assert sorted((each["process"], each["line"]) for each in found) == [
        (process, line) for process in range(6) for line in range(lines)
    ]


REPLACE = """
import sys
from pathlib import Path
from common.files import replace_file
sys.stdin.readline()
for turn in range(100):
    replace_file(Path(sys.argv[1]), sys.argv[2].encode() * 9000)
    assert len(set(Path(sys.argv[1]).read_bytes())) == 1
"""


def test_a_file_that_several_processes_replace_is_always_one_of_theirs(tmp_path: Path) -> None:
    together(REPLACE, [(str(tmp_path / "report.html"), letter) for letter in "abcd"])
    assert (tmp_path / "report.html").stat().st_size == 9000
    assert other_names(tmp_path, "report.html") == []


BAD_JSON = {
    b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "nested too deep",
    b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}": "nested too deep",
    b'{"a": ' + b'{"b":' * 100_000 + b"1" + b"}" * 100_001: "nested too deep",
    b'{"a": NaN}': "contains NaN",
    b'{"a": [-Infinity]}': "contains -Infinity",
    b'{"a": 1e400}': "contains 1e400",
    b'{"a": ' + b"1" * 5000 + b"}": "contains a number of 5000 digits",
    b'{"a": ' + b"1" * 400 + b"}": "contains a number of 400 digits",
    b'{"a": "\\ud800"}': "contains half of a character",
    b'{"\\udfff": 1}': "contains half of a character",
    b'{"a": "\xed\xa0\x80"}': "not valid JSON",
    b"\xff": "not valid JSON",
}


@pytest.mark.parametrize("content", BAD_JSON, ids=range(len(BAD_JSON)))
def test_json_that_cannot_be_worked_with_is_one_line(tmp_path: Path, content: bytes) -> None:
    told = BAD_JSON[content]
    (tmp_path / "some.json").write_bytes(content)
    with pytest.raises(FedShieldError) as caught:
        read_json(tmp_path / "some.json", "do this")
    assert str(caught.value) == f"{tmp_path}/some.json: damaged ({told}); do this"
    (tmp_path / "some.jsonl").write_bytes(b'{"a": 1}\n' + content + b"\n")
    with pytest.raises(FedShieldError) as caught:
        read_json_lines(tmp_path / "some.jsonl")
    assert str(caught.value) == f"{tmp_path}/some.jsonl: line 2 is damaged ({told}); remove that line"


def test_what_json_cannot_hold_is_not_written(tmp_path: Path) -> None:
    append_json_line(tmp_path / "some.jsonl", {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        append_json_line(tmp_path / "some.jsonl", {"loss": float("nan")})
    assert json.loads((tmp_path / "some.jsonl").read_text()) == {"loss": 1.0}


LARGE = """
import resource, sys
from pathlib import Path
from common.files import read_json
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
try:
    read_json(Path(sys.argv[1]), "")
except Exception as error:
    print(error)
"""


def test_a_file_that_is_too_large_for_the_memory_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.touch()
    os.truncate(path, 2**33)  # of holes alone
    told, _ = python(LARGE, str(path)).communicate(timeout=120)
    assert told == f"{path}: too large for the memory of this machine; check what it is\n"


def test_a_writer_that_is_stopped_holds_up_nobody(tmp_path: Path) -> None:
    path = tmp_path / "model"
    stopped = python(WRITE, str(path))
    assert stopped.stdout is not None
    assert stopped.stdout.readline() == "begun\n"
    stopped.send_signal(signal.SIGSTOP)
    until(lambda: Path(f"/proc/{stopped.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    replace_file(path, b"ours")
    assert path.read_bytes() == b"ours"
    stopped.send_signal(signal.SIGKILL)
    stopped.wait(60)


def test_a_mistake_of_no_file_does_not_send_the_reader_to_a_disk() -> None:
    told = r"^this command: Connection reset by peer; try it again$"
    with pytest.raises(FedShieldError, match=told), explain_os_errors():
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
