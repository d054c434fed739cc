"""The process that stays from message to message, between real processes: who starts it, when it ends, what it says."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from client.supernode.worker import FOLDER
from common.config.flat import Flat, default_config
from tests.helpers.settings import TINY, lives, until

# A SuperNode starts one process for each message: this one, for each task on its command line when it is given a line.
SUPERNODE = """
import json, subprocess, sys
for task in json.loads(sys.argv[1]):
    sys.stdin.readline()
    subprocess.run([sys.executable, "-c", sys.argv[2], json.dumps(task)], check=True)
sys.stdin.readline()
"""

# One of Flower's processes for one message. It tells how the task ended, and whether it had to import torch.
MESSAGE = """
import json, sys
from flwr.app import ConfigRecord, RecordDict
from client.supernode import worker
from common.errors import FedShieldError
name, run_config, node_config = json.loads(sys.argv[1])
try:
    model = RecordDict({"bulk": ConfigRecord({"bulk": bytes(node_config.get("bulk", 0))})})
    done = worker.request(name, model, run_config, node_config, RecordDict())
    if done is None:
        from client.tasks import TASKS
        done = TASKS[name](model, run_config, node_config, RecordDict()), None
    found = dict(done[0].metric_records["metrics"])
except FedShieldError as error:
    found = {"mistake": str(error)}
except Exception as error:
    found = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps({**found, "torch": "torch" in sys.modules}), flush=True)
"""


@pytest.fixture
def temp(tmp_path: Path) -> Path:
    """A temporary folder so deep that no socket could be named by its path."""
    folder = tmp_path / "temp" / ("deep" * 20)
    folder.mkdir(parents=True)
    return folder


def supernode(temp: Path, tasks: list[tuple[str, Flat, Flat]], **environment: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if name not in (FOLDER, "XDG_RUNTIME_DIR")}
    return subprocess.Popen(
        [sys.executable, "-c", SUPERNODE, json.dumps(tasks), MESSAGE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**kept, "TMPDIR": str(temp), **environment},
        cwd=Path(__file__).parents[3],
    )


def answer(process: subprocess.Popen[str]) -> dict[str, object]:
    """Let the next message come, and return what it tells."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    found: dict[str, object] = json.loads(process.stdout.readline())
    return found


def residents(temp: Path) -> list[int]:
    return [int(path.read_text()) for path in temp.glob("**/fedshield-*.pid")]


def until_gone(pid: int) -> None:
    until(lambda: not lives(pid), 30)


CONFIG: Flat = {**default_config(), **TINY}


def test_one_process_serves_all_messages_and_ends_with_its_supernode(temp: Path) -> None:
    elsewhere = {**CONFIG, "data.name": "folder", "data.root": "/nowhere"}
    tasks = [
        ("identify", CONFIG, {"partition-id": 3}),
        ("identify", elsewhere, {"partition-id": 4}),
        ("nonsense", CONFIG, {"partition-id": 3}),
        ("identify", CONFIG, {"partition-id": 5}),
    ]
    process = supernode(temp, tasks)
    first, mistake, error, last = (answer(process) for _ in tasks)
    assert first == {"partition-id": 3, "num-examples": 16, "torch": False}
    assert str(mistake["mistake"]).startswith("data.root: no folder /nowhere/train")
    assert str(error["error"]).startswith("RuntimeError: KeyError")
    assert last == {"partition-id": 5, "num-examples": 16, "torch": False}
    (pid,) = residents(temp)
    assert lives(pid)
    assert [path.stat().st_mode & 0o777 for path in temp.iterdir()] == [0o700]
    process.communicate("\n")
    until_gone(pid)
    assert list(temp.glob("fedshield-*/*")) == []


def test_a_process_that_hangs_is_ended_at_the_deadline_and_replaced(temp: Path) -> None:
    patient = {**CONFIG, "federation.client-timeout-seconds": 3}
    task, model = {"partition-id": 3}, {"partition-id": 3, "bulk": 10**7}  # more than a socket's buffer holds
    asked = [
        ("identify", CONFIG, task),
        ("identify", patient, task),
        ("identify", CONFIG, task),
        ("identify", patient, model),
    ]
    process = supernode(temp, asked)
    pids = []
    for _ in range(2):
        assert answer(process)["num-examples"] == 16
        (pid,) = residents(temp)
        os.kill(pid, signal.SIGSTOP)
        assert answer(process)["mistake"] == "no result within federation.client-timeout-seconds = 3"
        until_gone(pid)
        pids.append(pid)
    assert pids[0] != pids[1]
    process.communicate("\n")


def test_a_process_that_dies_is_told_and_replaced(temp: Path) -> None:
    task = {"partition-id": 3}
    process = supernode(temp, [("identify", CONFIG, task)] * 2)
    assert answer(process)["num-examples"] == 16
    (pid,) = residents(temp)
    os.kill(pid, signal.SIGKILL)
    assert answer(process)["num-examples"] == 16  # between two messages nobody notices
    process.communicate("\n")


@pytest.mark.parametrize("variable", [FOLDER, "XDG_RUNTIME_DIR"])
def test_a_folder_of_the_users_own_is_taken_before_one_that_others_may_make(temp: Path, variable: str) -> None:
    own = temp.parent / "own"
    own.mkdir(mode=0o700)
    process = supernode(temp, [("identify", CONFIG, {"partition-id": 3})], **{variable: str(own)})
    assert answer(process)["num-examples"] == 16
    assert len(residents(own)) == 1
    assert list(temp.iterdir()) == []
    process.communicate("\n")


def plant(how: str, place: Path) -> Path:
    """Be first at the client's place, as another user may; return the folder to which it leads."""
    if how == "another user's folder":
        subprocess.run(["mkdir", "-m", "700", str(place)], user=65534, check=True)
        return place
    if how == "a folder open to others":
        place.mkdir()
        place.chmod(0o777)
        return place
    target = place.parent / "target"
    target.mkdir(mode=0o700)
    place.symlink_to(target)
    return target


NOBODY_ELSE = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


@pytest.mark.parametrize(
    "how", ["a link", "a folder open to others", pytest.param("another user's folder", marks=NOBODY_ELSE)]
)
def test_who_was_first_in_the_temporary_folder_stops_no_client_and_sees_nothing(how: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        shared = Path(name)
        shared.chmod(0o1777)
        target = plant(how, shared / f"fedshield-{os.getuid()}")
        process = supernode(shared, [("identify", CONFIG, {"partition-id": 3})])
        # The process for this message does the work itself.
        assert answer(process) == {"partition-id": 3, "num-examples": 16, "torch": True}
        assert list(target.iterdir()) == []
        process.communicate("\n")
