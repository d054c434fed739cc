"""What Flower's node configuration says of a client: its number, and where its images are."""

import math
import os
from collections.abc import Mapping
from typing import Any

from common.data.split_directories import check_client_place
from common.errors import FedShieldError
from common.messages.protocol import DATA_PATH, NUM_PARTITIONS, PARTITION_ID
from common.paths import whole_path

_KEYS = (PARTITION_ID, NUM_PARTITIONS, DATA_PATH)


def check_node_config(node_config: Mapping[str, Any]) -> None:
    """Check the keys of a node, and which client of how many is on it.

    Raises:
        FedShieldError: a key is unknown, or has no such value.
    """
    if unknown := sorted(set(node_config) - set(_KEYS)):
        raise FedShieldError(f"--node-config: {unknown[0]} is not a key of a client; known: {', '.join(_KEYS)}")
    number, parts = client_number(node_config), node_config.get(NUM_PARTITIONS)
    if parts is not None and (type(parts) is not int or parts <= number):
        raise FedShieldError(
            f"--node-config: num-partitions = {parts!r} with partition-id = {number}; give the number of clients: they "
            "are numbered from 0"
        )


def check_place(node_config: Mapping[str, Any]) -> None:
    """Check the folder of a client's own images, if the node has one.

    Raises:
        FedShieldError: it cannot be read, or is another client's.
    """
    if (place := node_config.get(DATA_PATH)) is None:
        return
    try:
        os.listdir(f"{os.path.expanduser(place)}/." if place else "")  # which also needs the right to open files in it
    except (OSError, TypeError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "not a path"
        raise FedShieldError(
            f"--node-config: data-path = {place!r}: cannot be read ({reason}); give the folder of this client's images"
        ) from error
    check_client_place(whole_path(place), client_number(node_config))


def client_number(node_config: Mapping[str, Any], clients: float = math.inf) -> int:
    """Return the number of the client, of ``clients`` in the federation, that is on this node.

    Raises:
        FedShieldError: ``partition-id`` is missing, or no such number.
    """
    number = node_config.get(PARTITION_ID)
    if type(number) is not int or not 0 <= number < clients:
        most = "" if math.isinf(clients) else f" to {clients - 1:g}, which is federation.clients - 1"
        raise FedShieldError(
            f"--node-config: partition-id = {number!r}; give each client its own whole number from 0{most}"
        )
    return number
