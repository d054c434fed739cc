"""Who reaches the Ray engine: its own processes, and nobody else on this machine or outside it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.paths import ROOT

# The engine of `fedshield run --engine ray`, until it is told to end.
ENGINE = """
import json, os, sys
from simulations.engine.ray_executor import RayActors
from tests.helpers.settings import tiny_config
executor = RayActors(tiny_config(), 2)
import ray
ray.get(list(executor._starting))
this = ray.get_runtime_context()
told = {"address": this.gcs_address, "files": this.get_temp_dir(), "token": os.environ.get("RAY_AUTH_TOKEN")}
print(json.dumps(told), flush=True)
sys.stdin.readline()
executor.close()
"""

# Another program that knows the address, as each account of the machine may.
STRANGER = """
import os, sys
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
except ConnectionError:
    print("refused")
else:
    print("runs code as", ray.get(ray.remote(os.getuid).options(num_cpus=0).remote(), timeout=120))
"""

# `fedshield run --ray-address`.
JOIN = """
import sys
from common.errors import FedShieldError
from simulations.engine.ray_executor import RayActors
from tests.helpers.settings import tiny_config
try:
    executor = RayActors(tiny_config(), 1, sys.argv[1])
    import ray
    ray.get(list(executor._starting))
    print("joined")
except FedShieldError as error:
    print(error)
"""


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PYTHONPATH": str(ROOT), **changes}


def start(code: str, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment(**changes),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def start_other(code: str, address: str, **changes: str) -> subprocess.Popen[str]:
    # Without the switch Ray would look for a cluster on the loopback at this machine's other addresses.
    return start(code, address, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", **changes)


def said(process: subprocess.Popen[str]) -> str:
    """Return the last line that a process prints, at its end."""
    try:
        return process.communicate(timeout=300)[0].splitlines()[-1]
    finally:
        process.kill()


@pytest.fixture(scope="module")
def engine() -> Iterator[tuple[psutil.Process, dict[str, Any]]]:
    process = start(ENGINE)
    try:
        assert process.stdout is not None
        yield psutil.Process(process.pid), json.loads(process.stdout.readline())
        process.communicate("\n", timeout=120)
    finally:
        process.kill()


def parts(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def test_all_of_its_ports_are_on_the_loopback(engine: tuple[psutil.Process, dict[str, Any]]) -> None:
    listening = [
        (part.name(), ip_address(connection.laddr.ip))
        for part in parts(engine[0])
        for connection in part.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert [(name, address) for name, address in listening if not loopback(address)] == []


def loopback(address: Any) -> bool:
    return bool((getattr(address, "ipv4_mapped", None) or address).is_loopback)


def test_its_token_and_files_are_where_no_other_user_can_read(engine: tuple[psutil.Process, dict[str, Any]]) -> None:
    process, told = engine
    # Ray opens its own folder to everybody: sockets, logs, and what does not fit into memory.
    place = Path(told["files"])
    assert any(folder.stat().st_mode & 0o077 == 0 for folder in place.parents)
    files = [path for path in place.rglob("*") if path.is_file()]
    assert any(path.name == "raylet.out" for path in files)
    token = told["token"]
    assert len(token) == 64
    assert not [path for path in files if token.encode() in path.read_bytes()]
    for part in parts(process):
        assert token not in " ".join(part.cmdline())
        assert Path(f"/proc/{part.pid}/environ").stat().st_mode & 0o077 == 0


def test_nobody_joins_without_its_token(engine: tuple[psutil.Process, dict[str, Any]]) -> None:
    address, token = engine[1]["address"], engine[1]["token"]
    stranger = start_other(STRANGER, address)
    refused = (
        f"--ray-address {address}: the cluster asks for another token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to "
        "the one that its machines were started with"
    )
    assert said(start_other(JOIN, address)) == refused
    assert said(start_other(JOIN, address, RAY_AUTH_TOKEN="another")) == refused
    assert said(start_other(JOIN, address, RAY_AUTH_MODE="token", HOME="/nowhere")) == refused
    assert said(start_other(JOIN, address, RAY_AUTH_TOKEN=token)) == "joined"
    assert said(stranger) == "refused"


@pytest.mark.slow
def test_a_token_of_the_users_own_is_taken_and_nothing_is_left() -> None:
    with tempfile.TemporaryDirectory() as place:  # the paths of Ray's sockets are limited, and pytest's folders long
        process = start(ENGINE, RAY_AUTH_TOKEN="the-users", RAY_TMPDIR=place)
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            assert told["token"] == "the-users"
            assert place in told["files"]
            assert said(start_other(JOIN, told["address"], RAY_AUTH_TOKEN="the-users")) == "joined"
            process.communicate("\n", timeout=120)
            assert process.returncode == 0
            assert os.listdir(place) == []
        finally:
            process.kill()


@pytest.mark.slow
def test_a_deep_temporary_folder_does_not_keep_ray_from_starting(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 15)
    deep.mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"}
    done = subprocess.run(
        [sys.executable, "-c", ENGINE],
        env={**kept, "TMPDIR": str(deep), "PYTHONPATH": str(ROOT)},
        input="",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["files"].startswith(("/tmp/ray-", "/var/tmp/ray-"))
