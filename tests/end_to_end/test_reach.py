"""What is wrong with the line to a SuperLink, said at once: real sockets, and the web server that Flower has."""

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from client.supernode.superlink_check import check_line
from common import reach
from common.errors import FedShieldError
from common.reach import Place
from simulations.deployment import certificates
from simulations.deployment.certificates import make_certs
from simulations.deployment.flower_control import Control
from tests.helpers.bench import BIN
from tests.helpers.processes import free_ports
from tests.helpers.settings import until

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def healthy(scope: dict[str, Any], _: object, send: Send) -> None:
    """As a SuperLink answers to everybody, and a gateway to who wants to start runs."""
    if scope["type"] == "http":
        status = 200 if scope["path"] == "/health" else 403
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def listening(folder: Path | None) -> Iterator[str]:
    """A web server with the certificate of a folder, or without TLS."""
    (port,) = free_ports(1)
    files = {} if folder is None else {"ssl_certfile": folder / "server.crt", "ssl_keyfile": str(folder / "server.key")}
    server = uvicorn.Server(uvicorn.Config(healthy, "127.0.0.1", port, log_level="error", **files))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield f"127.0.0.1:{port}"
    server.should_exit = True
    thread.join(30)


@contextlib.contextmanager
def babbling(says: bytes | None) -> Iterator[str]:
    """A port that is no web server's: it greets, says nothing, or (None) hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            held = []
            with contextlib.suppress(OSError):
                while True:
                    line, _ = listener.accept()
                    if says is None:
                        line.close()
                    else:
                        line.sendall(says)
                        held.append(line)

        threading.Thread(target=greet, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    make_certs(folder, 1, ["127.0.0.1"])
    return folder


def test_a_superlink_that_can_be_reached_is(made: Path) -> None:
    with listening(made / "superlink") as address:
        assert Place(address, made / "ca.crt").reach() == ""
        check_line(["--superlink", address, "--root-certificates", str(made / "ca.crt")])
    with listening(None) as address:
        assert Place(address, None).reach() == ""
        check_line(["--insecure", f"--superlink={address}"])


def at_once(address: str, authority: Path | None) -> str:
    """Return what a user is told who would wait for an hour; a SuperNode's must say the same of its own options."""
    begin = time.monotonic()
    with pytest.raises(FedShieldError) as caught, Control(address, authority) as control:
        control.wait(3600)
    assert time.monotonic() - begin < 1800
    given = ["--insecure"] if authority is None else ["--root-certificates", str(authority)]
    with pytest.raises(FedShieldError) as same:
        check_line(["--superlink", address, *given])
    in_supernodes_words = str(caught.value).replace("with --ca", "with --root-certificates")
    in_supernodes_words = in_supernodes_words.replace(
        "leave out --ca", "give --insecure in place of --root-certificates"
    )
    assert str(same.value) == in_supernodes_words
    return str(caught.value).removeprefix(f"--superlink {address}: ")


def told_of(expired: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what is told where the days of one certificate, by its name in ``certificates``, are over."""
    monkeypatch.setattr(certificates, "_CLOCK_SKEW", timedelta(days=400))
    monkeypatch.setattr(certificates, expired, -3)
    make_certs(folder, 1, ["127.0.0.1"])
    with listening(folder / "superlink") as address:
        return at_once(address, folder / "ca.crt")


def test_an_expired_certificate_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(
        r"its certificate expired on \d{4}-\d\d-\d\d; "
        "make a new one with fedshield certs, and restart the SuperLink with it",
        told_of("_SERVER_DAYS", tmp_path, monkeypatch),
    )


def test_an_expired_ca_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_of("_CA_DAYS", tmp_path, monkeypatch)
    assert told == f"the CA {tmp_path}/ca.crt has expired; make a new one with fedshield certs in another folder"


def test_a_clock_that_is_behind_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_CLOCK_SKEW", timedelta(days=-3))
    make_certs(tmp_path, 1, ["127.0.0.1"])
    with listening(tmp_path / "superlink") as address:
        told = at_once(address, tmp_path / "ca.crt")
    assert re.fullmatch(r"its certificate is valid from .{16} UTC on; check the clock of this machine", told)


@pytest.mark.parametrize("hosts", [["fl.example.org", "10.0.0.7"], ["localhost"]])
def test_another_host_is_told_with_those_of_the_certificate(tmp_path: Path, hosts: list[str]) -> None:
    make_certs(tmp_path, 1, hosts)
    with listening(tmp_path / "superlink") as address:
        told = at_once(address, tmp_path / "ca.crt")
    assert told == (
        f"its certificate is for {', '.join(hosts)}, not for 127.0.0.1; give one of these, or make one with fedshield "
        "certs --host 127.0.0.1"
    )


def test_another_ca_is_told(made: Path, tmp_path: Path) -> None:
    make_certs(tmp_path, 1, ["127.0.0.1"])
    with listening(made / "superlink") as address:
        told = at_once(address, tmp_path / "ca.crt")
    assert told.startswith(f"its certificate was not signed by {tmp_path}/ca.crt (")
    assert told.endswith("); give the ca.crt from the same fedshield certs with --ca")


def test_tls_on_one_side_alone_is_told(made: Path) -> None:
    with listening(made / "superlink") as address:
        assert at_once(address, None) == "uses TLS; give its CA with --ca ca.crt"
    with listening(None) as address:
        assert at_once(address, made / "ca.crt") == (
            "uses no TLS; start the SuperLink with its certificate (--ssl-certfile), or leave out --ca"
        )


def test_a_port_that_speaks_something_else_is_told(made: Path) -> None:
    with babbling(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n") as address:
        assert at_once(address, None) == "no SuperLink listens there; give its address"
        told = at_once(address, made / "ca.crt")
    assert re.fullmatch(r"no SuperLink listens there \(TLS: [A-Z_]+\); give its address", told)


def test_the_gateway_is_no_place_to_start_runs(made: Path) -> None:
    with (
        listening(made / "gateway") as address,
        Control(address, made / "ca.crt") as control,
        pytest.raises(
            FedShieldError, match=r": starts no runs \(403 Forbidden\); give the SuperLink's own address, not "
        ),
    ):
        control.wait(3600)


@pytest.mark.parametrize("tls", [True, False])
def test_what_may_come_is_waited_for(made: Path, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_SECONDS", 1.0)
    authority = made / "ca.crt" if tls else None
    (port,) = free_ports(1)
    assert Place(f"127.0.0.1:{port}", authority).reach() == "Connection refused"
    assert Place("nowhere.invalid:8000", authority).reach()
    with babbling(b"") as address:
        assert Place(address, authority).reach() == "it does not answer within 1 s"
    with babbling(None) as address:
        assert Place(address, authority).reach() == "it closes the connection"


@pytest.mark.parametrize("address", ["localhost", "https://localhost:1", "localhost:0", "localhost:99999"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(FedShieldError, match=r"^--superlink '.*': write HOST:PORT, as in localhost:8000$"):
        check_line(["--superlink", address, "--insecure"])


def test_a_supernode_ends_with_the_line_alone(made: Path) -> None:
    with listening(made / "superlink") as address:
        command = [
            *(BIN / "fedshield-supernode", "--superlink", address, "--node-config", "partition-id=0"),
            "--insecure",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"fedshield-supernode: --superlink {address}: uses TLS; give its CA with --root-certificates ca.crt\n"
    )
