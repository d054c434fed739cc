"""What a SuperNode may be given: a mistake is one line at once, by the command itself."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from client.arguments import check_arguments, client_number
from common.errors import FedShieldError
from simulations.certs import make_certs
from tests.bench import BIN


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    make_certs(folder, 1, ["localhost"])
    return folder


def arguments(made: Path, **changes: str) -> list[str]:
    given = {
        "superlink": "localhost:1",
        "root_certificates": str(made / "ca.crt"),
        "auth_supernode_private_key": str(made / "client-0" / "client.key"),
        "node_config": 'partition-id=0 num-partitions=1 data-path="/images"',
        **changes,
    }
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]


def test_what_fedshield_makes_is_taken(made: Path) -> None:
    check_arguments(arguments(made))
    check_arguments(["--insecure", "--node-config=partition-id=3"])
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
    ],
)
def test_a_mistake_is_named(made: Path, changes: dict[str, str], expected: str) -> None:
    places = {holder: str(made / holder) for holder in ("client-0", "operator")}
    with pytest.raises(FedShieldError, match=expected):
        check_arguments(arguments(made, **{name: value.format_map(places) for name, value in changes.items()}))


def test_numbers_end_with_the_federation() -> None:
    assert client_number({"partition-id": 2}, 3) == 2
    with pytest.raises(FedShieldError, match=r"partition-id = 3; give each client .* from 0 to 2, which is federation"):
        client_number({"partition-id": 3}, 3)


def test_the_command_ends_at_once_with_the_line_alone(made: Path, tmp_path: Path) -> None:
    broken = shutil.copy(made / "ca.key", tmp_path / "ca.crt")
    command = [BIN / "fedshield-supernode", *arguments(made, root_certificates=str(broken))]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"fedshield-supernode: --root-certificates {broken}: cannot be read (not what it should be); "
        "give the ca.crt of fedshield certs\n"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "ca.crt"]
