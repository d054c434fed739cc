"""Certificates and keys: Flower's own loaders and a real TLS handshake take the right ones and refuse the others."""

import shutil
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from common.errors import FedShieldError
from simulations.deployment.certificates import make_certs
from tests.helpers.program import fedshield

HOSTS = ("fl.example.org", "localhost", "127.0.0.1")
HOLDERS = ("superlink", "gateway", "server", "operator", *(f"client-{client}" for client in range(3)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    make_certs(folder, 3, HOSTS)
    return folder


def test_private_files_are_for_their_owner_alone(made: Path) -> None:
    private = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()} - {
        *("ca.crt", *(f"{holder}/ca.crt" for holder in HOLDERS)),
        *(f"{holder}/server.crt" for holder in ("superlink", "gateway")),
        *(f"operator/clients/{client}.pub" for client in range(3)),
    }
    secrets = {f"{holder}/superexec-secret" for holder in ("superlink", "server")}
    keys = {"ca.key", "superlink/server.key", "gateway/server.key", *(f"client-{n}/client.key" for n in range(3))}
    assert private == secrets | keys
    for name in private:
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600
    assert len({(made / name).read_bytes() for name in keys}) == len(keys)
    assert len({(made / name).read_bytes() for name in secrets}) == 1


def test_keys_belong_together_and_are_what_flower_wants(made: Path) -> None:
    for client in range(3):
        key = load_ssh_private_key((made / f"client-{client}" / "client.key").read_bytes(), None)
        public = load_ssh_public_key((made / "operator" / "clients" / f"{client}.pub").read_bytes())
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.public_key() == public


def handshake(made: Path, host: str, trusted: Path) -> str:
    """Let a client that trusts a CA meet a server with the certificate; return the version of TLS."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made / "gateway" / "server.crt", made / "gateway" / "server.key")
    client = ssl.create_default_context(cafile=trusted)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(far, server_side=True).close()
        except (ssl.SSLError, OSError):
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=host) as connection:
            return str(connection.version())
    finally:
        near.close()
        thread.join()


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_believes_the_server_under_its_names(made: Path, host: str) -> None:
    assert handshake(made, host, made / "ca.crt") == "TLSv1.3"


def test_a_client_does_not_believe_another_name_or_another_ca(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(made, "evil.example.org", made / "ca.crt")
    make_certs(tmp_path, 1, HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(made, "localhost", tmp_path / "ca.crt")


def test_more_clients_are_added_and_nothing_that_is_there_is_replaced(tmp_path: Path) -> None:
    make_certs(tmp_path, 1, HOSTS)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.stem != "server"}
    done = fedshield("certs", "--out", str(tmp_path), "--clients", "2", "--host", "10.1.2.3")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "client-1" / "client.key") in done.stdout.splitlines()
    assert all(path.read_bytes() == content for path, content in kept.items())
    for host in ("10.1.2.3", *HOSTS):
        assert handshake(tmp_path, host, tmp_path / "ca.crt") == "TLSv1.3"


@pytest.mark.parametrize(
    "host",
    [
        *("", "https://fl.example.org:8000", "fl.example.org:8000", "10.0.0.1/24", "10.0.0.300", "klinik-zürich.ch"),
        *("a" * 64, ".".join(["a" * 60] * 5), "a..b", "-a.org", "two words"),
    ],
)
def test_a_host_that_is_none_is_named_and_nothing_is_made(tmp_path: Path, host: str) -> None:
    with pytest.raises(FedShieldError, match=r"^--host '.*': write only a name or an address"):
        make_certs(tmp_path / "certs", 1, ["localhost", host])
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("host", ["::1", "host", "my_server", "xn--klinik-zrich-klb.ch", ".".join(["a" * 60] * 4)])
def test_any_name_that_a_server_may_have_is_taken(tmp_path: Path, host: str) -> None:
    make_certs(tmp_path, 1, [host])
    assert handshake(tmp_path, host, tmp_path / "ca.crt") == "TLSv1.3"


def test_a_certificate_that_cannot_be_read_is_not_replaced(tmp_path: Path) -> None:
    make_certs(tmp_path, 1, HOSTS)
    (tmp_path / "gateway" / "server.crt").write_text("half")
    with pytest.raises(
        FedShieldError, match=r"gateway/server\.crt: cannot be read \(.*\); delete it, and repeat every"
    ):
        make_certs(tmp_path, 1, ["localhost"])


def test_a_key_that_was_carried_to_its_client_is_not_made_anew(tmp_path: Path) -> None:
    make_certs(tmp_path, 2, ["localhost"])
    public = (tmp_path / "operator" / "clients" / "1.pub").read_bytes()
    shutil.rmtree(tmp_path / "client-1")
    made = make_certs(tmp_path, 2, ["localhost"])
    assert (tmp_path / "operator" / "clients" / "1.pub").read_bytes() == public
    assert not (tmp_path / "client-1" / "client.key").exists()
    assert all(path.exists() for path in made)


def test_what_an_interrupted_command_has_left_is_completed(tmp_path: Path) -> None:
    make_certs(tmp_path, 3, HOSTS)
    authority = (tmp_path / "ca.crt").read_bytes()
    (tmp_path / "ca.crt").unlink()
    (tmp_path / "superlink" / "superexec-secret").write_bytes(b"")
    (tmp_path / "operator" / "clients" / "0.pub").unlink()
    (tmp_path / "ca.key.partial").write_bytes(b"half")
    assert all(path.exists() for path in make_certs(tmp_path, 3, HOSTS))
    assert handshake(tmp_path, "localhost", tmp_path / "client-0" / "ca.crt") == "TLSv1.3"
    secrets = {path.read_bytes() for path in tmp_path.rglob("superexec-secret")}
    assert [len(secret) for secret in secrets] == [64]
    assert (tmp_path / "ca.crt").read_bytes() == authority
    test_keys_belong_together_and_are_what_flower_wants(tmp_path)


def test_a_damaged_ca_is_not_replaced(tmp_path: Path) -> None:
    make_certs(tmp_path, 1, HOSTS)
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.key").write_bytes(b"-----BEGIN")
    with pytest.raises(FedShieldError, match=r": the CA cannot be read \(.*\); put back ca\.crt and ca\.key, or"):
        make_certs(tmp_path, 1, HOSTS)
    assert (tmp_path / "ca.key").read_bytes() == b"-----BEGIN"
    make_certs(tmp_path / "other", 1, HOSTS)
    (tmp_path / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(FedShieldError, match=r"ca\.key: not the key of ca\.crt; put back the one"):
        make_certs(tmp_path, 1, HOSTS)
    (tmp_path / "ca.key").write_bytes(key)
    make_certs(tmp_path, 1, HOSTS)
