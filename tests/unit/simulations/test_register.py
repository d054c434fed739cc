"""Letting clients in: keys that are looked at before any is registered; more of it is in test_deployment.py."""

import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.errors import FedShieldError
from simulations.deployment.certificates import make_certs
from simulations.deployment.flower_control import Control
from simulations.deployment.register import register


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Keys of three clients that nobody has registered yet."""
    make_certs(tmp_path, 3, ["localhost"])
    return tmp_path / "operator" / "clients"


@pytest.mark.parametrize("name", ["alice.pub", "03.pub", "-1.pub", "1.5.pub"])
def test_a_file_that_does_not_tell_whose_key_it_is_is_named(keys: Path, name: str) -> None:
    (keys / "0.pub").rename(keys / name)
    expected = f"^{re.escape(str(keys / name))}: cannot tell whose key it is; name it N.pub, where N is the number of "
    with pytest.raises(FedShieldError, match=expected):
        register(Control("localhost:1", None), keys, 0)


def test_what_macos_leaves_beside_a_key_is_no_key(keys: Path) -> None:
    (keys / "._0.pub").write_bytes(b"\0\5\x16\7")
    with pytest.raises(FedShieldError, match=r"^--superlink localhost:1: no answer"):  # all keys have been looked at
        register(Control("localhost:1", None), keys, 0)


def test_one_key_for_two_clients_is_told(keys: Path) -> None:
    shutil.copy(keys / "0.pub", keys / "2.pub")
    with pytest.raises(FedShieldError, match=r"2\.pub: the same key as 0\.pub; each client needs a key of its own$"):
        register(Control("localhost:1", None), keys, 0)


def test_what_is_no_key_for_flower_is_named(keys: Path) -> None:
    curve = ed25519.Ed25519PrivateKey.generate().public_key()
    other = curve.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    for content, why in ((b"not a key", "not a readable public key"), (other, "not an elliptic-curve key")):
        (keys / "1.pub").write_bytes(content)
        with pytest.raises(FedShieldError, match=rf"1\.pub: {why}.*; give those of fedshield certs$"):
            register(Control("localhost:1", None), keys, 0)
