"""Checks a SuperNode's arguments before it starts: Flower itself ends with a traceback, or ignores a mistake."""

import argparse
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm

from client.node_config import check_node_config, check_place
from common.errors import FedShieldError
from common.paths import whole_path

_PAIR = r"(\S+?)=('[^']*'|\"[^\"]*\"|\S+)"  # as Flower reads one


def check_arguments(arguments: Sequence[str]) -> None:
    """Check the files, the port and the client in a SuperNode's command line.

    Raises:
        FedShieldError: one line with the option, what was found and what to do.
    """
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from cryptography.x509 import load_pem_x509_certificate
    from flwr.supercore.constant import SUPERNODE_UVICORN_DEFAULT_PORT, UVICORN_DEFAULT_HOST

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--root-certificates", "--auth-supernode-private-key", "--node-config"):
        parser.add_argument(option)
    parser.add_argument("--isolation")
    parser.add_argument("--host", default=UVICORN_DEFAULT_HOST)
    parser.add_argument("--port", default=str(SUPERNODE_UVICORN_DEFAULT_PORT))
    given, _ = parser.parse_known_args(arguments)
    _load("--root-certificates", given.root_certificates, load_pem_x509_certificate, "ca.crt")
    key = given.auth_supernode_private_key
    _load("--auth-supernode-private-key", key, lambda content: load_ssh_private_key(content, None), "client.key")
    if not only_asks(arguments):
        node_config = {} if given.node_config is None else _node_config(given.node_config)
        check_node_config(node_config)
        if given.isolation != "process":  # or the images are where the SuperExec is
            check_place(node_config)
        if given.port.isdecimal():
            _check_port(given.host, int(given.port))


def only_asks(arguments: Sequence[str]) -> bool:
    """Return whether a command line asks for help or the version, and starts nothing."""
    return bool({"-h", "--help", "-V", "--version"} & set(arguments))


def _check_port(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FedShieldError(
            f"--port {port}: cannot be opened on --host {host} ({reason}); each client of a machine needs its own"
        ) from error


def _load(option: str, name: str | None, read: Callable[[bytes], object], file: str) -> None:
    if name is None:
        return
    path = whole_path(name)
    try:
        read(path.read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = error.strerror if isinstance(error, OSError) else "not what it should be"
        raise FedShieldError(f"{option} {name}: cannot be read ({what}); give the {file} of fedshield certs") from error


def _node_config(text: str) -> Mapping[str, Any]:
    from flwr.common.config import parse_config_args

    try:
        if not text.endswith(".toml") and re.sub(_PAIR, "", text).strip():
            raise ValueError("words that Flower ignores")
        return parse_config_args([text])
    except Exception as error:  # of Flower's command line
        raise FedShieldError(
            f"--node-config {text!r}: cannot be read; write it as 'partition-id=2 data-path=\"/images\"'"
        ) from error
