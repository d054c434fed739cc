"""What a SuperNode may be given: a mistake is one line at once, by the command itself."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.node_config import client_number
from client.supernode.arguments import check_arguments
from common.errors import FedShieldError
from simulations.deployment.certificates import make_certs
from tests.helpers.bench import BIN


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    make_certs(folder, 1, ["localhost"])
    images = folder / "client-0"
    (images / "split.json").write_text(json.dumps({"holder": "client", "client": 0, "classes": ["cat", "dog"]}))
    return folder


def arguments(made: Path, **changes: str) -> list[str]:
    given = {
        "superlink": "localhost:1",
        "port": "0",
        "root_certificates": str(made / "ca.crt"),
        "auth_supernode_private_key": str(made / "client-0" / "client.key"),
        "node_config": f'partition-id=0 num-partitions=1 data-path="{made}/client-0"',
        **changes,
    }
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]


def test_what_fedshield_makes_is_taken(made: Path) -> None:
    check_arguments(arguments(made))
    check_arguments(["--insecure", "--port=0", "--node-config=partition-id=3"])
    check_arguments(arguments(made, node_config=f'partition-id=0 data-path="{made}"'))  # the folder around
    elsewhere = '--node-config=partition-id=3 data-path="/in/another/container"'
    check_arguments(["--insecure", "--port=0", "--isolation=process", elsewhere])
    check_arguments(["--help"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"root_certificates": "gone.crt"},
            r"^--root-certificates gone\.crt: cannot be read \(No such file or directory\); ",
        ),
        (
            {"root_certificates": "{client-0}/client.key"},
            r"client\.key: cannot be read \(not what it should be\); give the ca",
        ),
        (
            {"auth_supernode_private_key": "{operator}/clients/0.pub"},
            r"^--auth-supernode-private-key .*0\.pub: cannot be read",
        ),
        (
            {"node_config": "partition-id=x y"},
            r"^--node-config 'partition-id=x y': cannot be read; write it as 'partition-id=2",
        ),
        (
            {"node_config": "num-partitions=3"},
            r"^--node-config: partition-id = None; give each client its own whole number",
        ),
        ({"node_config": "partition-id=1.7"}, r"^--node-config: partition-id = 1\.7; "),
        ({"node_config": "partition-id=-1"}, r"^--node-config: partition-id = -1; "),
        ({"node_config": "partition-id=true"}, r"^--node-config: partition-id = True; "),
        (
            {"node_config": "partition-id=3 num-partitions=3"},
            r"^--node-config: num-partitions = 3 with partition-id = 3; give the number of clients: they are numb",
        ),
        ({"node_config": "partition-id=0 num-partitions=0"}, r"^--node-config: num-partitions = 0 with "),
        ({"node_config": "partition-id=0 num-partitions=2.5"}, r"^--node-config: num-partitions = 2\.5 with "),
        ({"node_config": "partition-id=0 num-partitions=true"}, r"^--node-config: num-partitions = True with "),
        (
            {"node_config": 'partition-id=0 data_path="{client-0}"'},
            r"^--node-config: data_path is not a key of a client; known: partition-id, num-partitions, ",
        ),
        (
            {"node_config": 'partition-id=0 data-path = "{client-0}"'},
            r"^--node-config 'partition-id=0 data-path = .*': cannot be read; write it as ",
        ),
        (
            {"node_config": 'partition-id=0 data-path="/nowhere"'},
            r"^--node-config: data-path = '/nowhere': cannot be read \(No such file or directory\); give the folder of",
        ),
        (
            {"node_config": 'partition-id=0 data-path="{client-0}/client.key"'},
            r"client\.key': cannot be read \(Not a directory\); ",
        ),
        ({"node_config": 'partition-id=0 data-path=""'}, r"^--node-config: data-path = '': cannot be read \(No such "),
        ({"node_config": "partition-id=0 data-path=3"}, r"^--node-config: data-path = 3: cannot be read \(not a path"),
        ({"node_config": 'partition-id=0 data-path="{operator}"'}, r"operator/split\.json: not found; "),
        ({"node_config": 'partition-id=1 data-path="{client-0}"'}, r"client = 0, but this node's partition-id is 1; "),
        ({"port": "99999"}, r"^--port 99999: cannot be opened on --host 127\.0\.0\.1 \("),
    ],
)
def test_a_mistake_is_named(made: Path, changes: dict[str, str], expected: str) -> None:
    places = {holder: str(made / holder) for holder in ("client-0", "operator")}
    with pytest.raises(FedShieldError, match=expected):
        check_arguments(arguments(made, **{name: value.format_map(places) for name, value in changes.items()}))


@contextmanager
def without_rights() -> Iterator[None]:
    """Be a user to whom permissions apply."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_images_that_may_not_be_read_are_named(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    given = f'--node-config=partition-id=0 data-path="{tmp_path}"'
    with without_rights(), pytest.raises(FedShieldError, match=r"cannot be read \(Permission denied\)"):
        check_arguments(["--insecure", "--port=0", given])
    tmp_path.chmod(0o700)


def test_a_port_that_somebody_else_has_is_named(made: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            FedShieldError, match=rf"^--port {port}: cannot be opened .*\(Address already in use\); each"
        ):
            check_arguments(arguments(made, port=str(port)))


def test_numbers_end_with_the_federation() -> None:
    assert client_number({"partition-id": 2}, 3) == 2
    with pytest.raises(FedShieldError, match=r"partition-id = 3; give each client .* from 0 to 2, which is federation"):
        client_number({"partition-id": 3}, 3)


def test_the_command_ends_at_once_with_the_line_alone(made: Path, tmp_path: Path) -> None:
    broken = shutil.copy(made / "ca.key", tmp_path / "ca.crt")
    command = [BIN / "fedshield-supernode", *arguments(made, root_certificates=str(broken))]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"fedshield-supernode: --root-certificates {broken}: cannot be read (not what it should be); "
        "give the ca.crt of fedshield certs\n"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "ca.crt"]
