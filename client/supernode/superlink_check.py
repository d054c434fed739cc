"""Checks the connection to the SuperLink before a SuperNode starts: Flower says little, or tries again forever."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import certifi

from client.supernode.arguments import only_asks
from common.paths import whole_path
from common.reach import Place, patient

if TYPE_CHECKING:
    from flwr.supercore.heartbeat import HeartbeatSender
    from flwr.supercore.retry import RetryInvoker

_ADDRESS = "127.0.0.1:8000"  # Flower's default


def check_line(arguments: Sequence[str]) -> None:
    """Connect to the SuperLink of a SuperNode's command line. For one that is not there yet, Flower itself waits.

    Raises:
        FedShieldError: one line that says what must be changed before the SuperNode can be connected.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--superlink", default=_ADDRESS)
    parser.add_argument("--root-certificates")
    parser.add_argument("--insecure", action="store_true")
    given, _ = parser.parse_known_args(arguments)
    if only_asks(arguments):
        return
    # As in Flower: without a CA of the federation's own, the public ones.
    authority = given.root_certificates or os.environ.get("SSL_CERT_FILE") or certifi.where()
    Place(
        given.superlink,
        None if given.insecure else whole_path(authority),
        trust_option="--root-certificates",
        plain_option="give --insecure in place of --root-certificates",
    ).reach()


def hold_on() -> None:
    """Let Flower's SuperNode, in this process, survive short failures of the SuperLink.

    It connects again also after a connection that broke while it was made, and its heartbeat is tried again also after
    "500", which a SuperLink says whose disk is full: the thread of the heartbeat would end, and a client that is alive
    would count as gone until it is started again.
    """
    import httpx
    from flwr.supernode import fleet_http_connection

    make = fleet_http_connection.make_simple_http_retry_invoker  # type: ignore[attr-defined]
    sender = fleet_http_connection.HeartbeatSender  # type: ignore[attr-defined]

    def make_patient() -> RetryInvoker:
        invoker = make()
        invoker.should_giveup = patient(invoker.should_giveup)
        return invoker

    def make_lasting(heartbeat: Callable[[], bool]) -> HeartbeatSender:
        def tried() -> bool:
            try:
                return heartbeat()
            except httpx.HTTPStatusError as error:
                if error.response.is_server_error:
                    return False
                raise

        return sender(tried)

    fleet_http_connection.make_simple_http_retry_invoker = make_patient  # type: ignore[attr-defined]
    fleet_http_connection.HeartbeatSender = make_lasting  # type: ignore[assignment, attr-defined]
