"""What a SuperNode is given, looked at before it starts: Flower's own goes on with a traceback, or without a word."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm

from common.errors import FedShieldError


def check_arguments(arguments: Sequence[str]) -> None:
    """Look at the files and the number of the client in a SuperNode's command line.

    Raises:
        FedShieldError: one line with the option, what was found and what to do.
    """
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from cryptography.x509 import load_pem_x509_certificate

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--root-certificates", "--auth-supernode-private-key", "--node-config"):
        parser.add_argument(option)
    given, _ = parser.parse_known_args(arguments)
    _load("--root-certificates", given.root_certificates, load_pem_x509_certificate, "ca.crt")
    key = given.auth_supernode_private_key
    _load("--auth-supernode-private-key", key, lambda content: load_ssh_private_key(content, None), "client.key")
    if not {"-h", "--help", "-V", "--version"} & set(arguments):
        client_number({} if given.node_config is None else _node_config(given.node_config))


def client_number(node_config: Mapping[str, Any], clients: float = math.inf) -> int:
    """Return which of the ``clients`` of a federation is on this node.

    Raises:
        FedShieldError: ``partition-id`` is missing, or no such number.
    """
    number = node_config.get("partition-id")
    if type(number) is not int or not 0 <= number < clients:
        most = "" if math.isinf(clients) else f" to {clients - 1:g}, which is federation.clients - 1"
        raise FedShieldError(
            f"--node-config: partition-id = {number!r}; give each client its own whole number from 0{most}"
        )
    return number


def _load(option: str, name: str | None, read: Callable[[bytes], object], file: str) -> None:
    if name is None:
        return
    path = Path(name).expanduser()
    try:
        read(path.read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = error.strerror if isinstance(error, OSError) else "not what it should be"
        raise FedShieldError(f"{option} {path}: cannot be read ({what}); give the {file} of fedshield certs") from error


def _node_config(text: str) -> Mapping[str, Any]:
    from flwr.common.config import parse_config_args

    try:
        return parse_config_args([text])
    except Exception as error:  # of Flower's command line
        raise FedShieldError(
            f"--node-config {text!r}: cannot be read; write it as 'partition-id=2 data-path=\"/images\"'"
        ) from error
