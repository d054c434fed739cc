"""The gateway of docker/ as nginx reads it, in front of a real SuperLink: who has no key fills nobody's memory."""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from common.paths import ROOT
from simulations.deployment.flower_control import Control
from simulations.deployment.register import register
from tests.helpers.bench import Bench
from tests.helpers.processes import free_ports
from tests.helpers.settings import until

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
PIECE = 5 * 2**20  # the most that Flower sends at a time


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A SuperLink behind its gateway, and two clients that may come."""
    with Bench(tmp_path_factory.mktemp("bench"), 2, {}) as found:
        found.start_superlink()
        register(Control(found.address, found.folder / "certs" / "ca.crt"), found.folder / "certs/operator/clients", 60)
        yield found


@pytest.fixture
def gateway(bench: Bench, tmp_path: Path) -> Iterator[int]:
    """The port of nginx with the file of the containers, whose places alone are others."""
    port, inner = free_ports(2)
    text = (ROOT / "docker" / "gateway.conf").read_text()
    for old, new in (
        ("/tmp/", f"{tmp_path}/"),
        ("listen 8000 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("$superlink:8000", f"127.0.0.1:{bench.port}"),
        ("127.0.0.1:8001", f"127.0.0.1:{inner}"),
        ("/federation/ca.crt", f"{bench.folder}/certs/ca.crt"),
        ("/federation", f"{bench.folder}/certs/gateway"),
        ("/spool", str(tmp_path)),
        ("resolver 127.0.0.11 valid=10s;", ""),
        ("proxy_ssl_name superlink", "proxy_ssl_name localhost"),
    ):
        text = text.replace(old, new)
    if os.getuid() == 0:
        text = f"user root;\n{text}"
    (tmp_path / "gateway.conf").write_text(text)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["nginx", "-c", tmp_path / "gateway.conf"], stderr=log)
    until(lambda: answers(port), told=(tmp_path / "log").read_text)
    yield port
    process.terminate()
    process.wait(30)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 5).close()
        return True
    return False


@contextlib.contextmanager
def half_sent(port: int, path: str, size: int, number: int) -> Iterator[list[ssl.SSLSocket]]:
    """So many strangers, each of whom has sent all but the last byte of a body."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/protobuf\r\nContent-Length: {size}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        lines = []
        for _ in range(number):
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            line = stack.enter_context(context.wrap_socket(raw))
            with contextlib.suppress(OSError):  # refused before all is there
                line.sendall(head.encode())
                line.sendall(bytes(size - 1))
            lines.append(line)
        yield lines


def status(line: ssl.SSLSocket, seconds: float) -> int:
    """Return the status of an answer; 0 while there is none."""
    line.settimeout(seconds)
    try:
        return int(line.recv(4096).split()[1])
    except TimeoutError:
        return 0


def memory(bench: Bench) -> float:
    """Return the SuperLink's memory in MB."""
    return sum(psutil.Process(pid).memory_info().rss for pid in bench.pids("superlink")) / 2**20


@contextlib.contextmanager
def client(bench: Bench, port: int, number: int) -> Iterator[tuple[FleetHttpClient, bytes]]:
    """A client's line to the SuperLink, as its SuperNode has it, and its public key."""
    certs = bench.folder / "certs"
    key = load_ssh_private_key((certs / f"client-{number}" / "client.key").read_bytes(), None)
    signs = NodeAuthHttpInterceptor(key, key.public_key())  # type: ignore[arg-type]
    authority = (certs / "ca.crt").read_bytes()
    with FleetHttpClient.from_server_address(f"127.0.0.1:{port}", False, authority, [signs]) as line:
        yield line, public_key_to_bytes(key.public_key())  # type: ignore[arg-type]


def test_half_sent_bodies_of_strangers_do_not_reach_the_superlink(bench: Bench, gateway: int) -> None:
    before = memory(bench)
    with half_sent(gateway, "/v1/fleet/push-object", 6 * 2**20, 40) as strangers:
        assert [status(line, 0.1) for line in strangers] == [0] * 40
        assert memory(bench) < before + 40
        # From the same address: what is no piece of a model still comes through, a piece must be sent again later.
        with client(bench, gateway, 0) as (line, key):
            node = line.ActivateNode(ActivateNodeRequest(public_key=key, heartbeat_interval=30)).node_id
            assert node
            with pytest.raises(httpx.HTTPStatusError, match="503"):
                line.PushObject(piece(node))
        with half_sent(gateway, "/v1/fleet/push-object", 1000, 1) as (late,):
            assert status(late, 30) == 503


def test_few_whole_pieces_are_at_the_superlink_at_a_time(bench: Bench, gateway: int) -> None:
    with half_sent(gateway, "/v1/fleet/push-object", 6 * 2**20, 25) as strangers:
        os.kill(bench.processes["superlink"].pid, signal.SIGSTOP)
        try:
            for line in strangers:
                line.sendall(b"0")
            waiting = list(strangers)

            def refused() -> bool:
                for line in list(waiting):
                    if answer := status(line, 0.05):
                        assert answer == 503
                        waiting.remove(line)
                return len(waiting) == 20

            until(refused)
        finally:
            os.kill(bench.processes["superlink"].pid, signal.SIGCONT)
        assert [status(line, 60) for line in waiting] == [400] * 20


def piece(node: int) -> PushObjectRequest:
    request = PushObjectRequest(run_id=1, object_id="0" * 64, object_content=os.urandom(PIECE))
    request.node.node_id = node
    return request


def test_the_largest_piece_of_a_client_reaches_the_superlink(bench: Bench, gateway: int) -> None:
    with client(bench, gateway, 1) as (line, key):
        node = line.ActivateNode(ActivateNodeRequest(public_key=key, heartbeat_interval=30)).node_id
        with pytest.raises(httpx.HTTPStatusError) as caught:
            line.PushObject(piece(node))
        answer = caught.value.response  # the SuperLink's own: there is no such run
        assert (answer.status_code, answer.text) == (500, '{"detail":"Internal server error."}')
    with client(bench, gateway, 1) as (line, key), pytest.raises(httpx.HTTPStatusError, match="401"):
        line.PushObject(piece(node + 1))


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("activate-node", 20_000),
        ("send-node-heartbeat", 20_000),
        ("pull-messages", 20_000),
        ("confirm-message-received", 20_000),
        ("push-object", 7 * 2**20),
        ("push-messages", 7 * 2**20),
    ],
)
def test_a_body_that_no_client_sends_is_refused_before_it_comes(gateway: int, path: str, size: int) -> None:
    with half_sent(gateway, f"/v1/fleet/{path}", size, 1) as (line,):
        assert status(line, 30) == 413
