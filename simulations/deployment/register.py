"""Registers the clients' public keys, each under the name of its client: what is registered tells whose a node is."""

from collections.abc import Iterable
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.constant import NodeStatus
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from common.errors import FedShieldError
from common.words import in_one_line
from server.network.roster import client_of
from simulations.deployment.flower_control import Control


def register(control: Control, folder: Path, patience: float) -> list[Path]:
    """Register the keys of a folder, ``N.pub`` as that of client N, and return them.

    Those that are registered already, under their client's name, are left as they are. Nothing is registered before all
    have been looked at.

    Raises:
        FedShieldError: there are none, one is not what it should be, the SuperLink does not answer or refuses one.
    """
    paths = sorted(folder.glob("[!.]*.pub"))  # macOS adds ._0.pub to what is carried in archives
    if not paths:
        raise FedShieldError(f"{folder}: no *.pub in it; give the folder operator/clients of fedshield certs")
    names = {path: _name(path) for path in paths}
    keys: dict[bytes, Path] = {}
    for path in paths:
        if (other := keys.setdefault(_read(path), path)) != path:
            raise FedShieldError(f"{path}: the same key as {other.name}; each client needs a key of its own")
    with control:
        control.wait(patience)
        try:
            with control.client() as client:
                known = client.ListNodes(ListNodesRequest()).nodes_info
                new = {key: path for key, path in keys.items() if not _is_registered(path, key, names[path], known)}
                for key, path in new.items():
                    client.RegisterNode(RegisterNodeRequest(public_key=key, name=names[path]))
        except httpx.HTTPError as error:
            told = error.response.text if isinstance(error, httpx.HTTPStatusError) else str(error)
            raise FedShieldError(
                f"--superlink {control.address}: the keys could not be registered ({in_one_line(told)}); try again"
            ) from error
    return paths


def _name(path: Path) -> str:
    name = f"client-{path.stem}"
    if client_of(name) is None:
        raise FedShieldError(f"{path}: cannot tell whose key it is; name it N.pub, where N is the number of its client")
    return name


def _read(path: Path) -> bytes:
    """Return a public key as Flower has it."""
    try:
        key = load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise FedShieldError(f"{path}: not a readable public key ({error}); give those of fedshield certs") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise FedShieldError(f"{path}: not an elliptic-curve key, as Flower requires; give those of fedshield certs")
    return public_key_to_bytes(key)


def _is_registered(path: Path, key: bytes, name: str, known: Iterable[NodeInfo]) -> bool:
    """Return whether a key is registered under its client's name.

    Raises:
        FedShieldError: it was unregistered, is registered otherwise, or another key has the name.
    """
    again = f"for a new key, delete {path} and run fedshield certs again"
    for node in known:
        gone = node.status == NodeStatus.UNREGISTERED
        if node.public_key == key and gone:
            raise FedShieldError(f"{path}: was unregistered, and Flower never takes such a key again; {again}")
        if node.public_key == key and node.name != name:
            how = f"as {node.name!r}" if node.name else "without a name"
            raise FedShieldError(
                f"{path}: is registered {how}, not as {name}, and Flower cannot change that; unregister node "
                f"{node.node_id} with flwr supernode unregister, and {again}"
            )
        if node.name == name and node.public_key != key and not gone:
            raise FedShieldError(
                f"{path}: another key is registered as {name}, that of node {node.node_id}; if this one takes its "
                "place, unregister that node with flwr supernode unregister"
            )
    return any(node.public_key == key for node in known)
