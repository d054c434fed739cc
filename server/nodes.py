"""Waits for the clients' nodes and learns which client is on which."""

import time

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from common.config import FederationConfig
from common.errors import FedShieldError

_POLL_SECONDS = 0.5


def enlist(grid: Grid, federation: FederationConfig) -> tuple[int, ...]:
    """Return the node id of each client, by client number.

    Node ids are random in Flower, and nodes beyond ``federation.clients`` are left alone. The query also makes every
    client load its data, so that a lack shows before the first round.

    Raises:
        FedShieldError: too few nodes after ``federation.node-wait-seconds``, or a client that cannot start.
    """
    nodes = _wait_for_nodes(grid, federation)
    queries = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
    found: dict[int, int] = {}
    for reply in grid.send_and_receive(queries, timeout=federation.client_timeout_seconds):
        if reply.has_error():
            raise FedShieldError(reply.error.reason or f"a client could not start (error {reply.error.code})")
        client = int(reply.content.metric_records["metrics"]["partition-id"])  # type: ignore[arg-type]
        found[client] = reply.metadata.src_node_id
    missing = [client for client in range(federation.clients) if client not in found]
    if missing:
        raise FedShieldError(
            f"no node answered for client {', '.join(map(str, missing))} of {federation.clients}; "
            "start one for each partition-id from 0"
        )
    return tuple(found[client] for client in range(federation.clients))


def _wait_for_nodes(grid: Grid, federation: FederationConfig) -> list[int]:
    deadline = time.monotonic() + federation.node_wait_seconds
    while len(nodes := sorted(grid.get_node_ids())) < federation.clients:
        if time.monotonic() >= deadline:
            raise FedShieldError(
                f"federation.clients = {federation.clients}, but {len(nodes)} nodes are there after "
                f"{federation.node_wait_seconds} s; start the run with: flwr run . --stream --federation-config "
                f'"num-supernodes={federation.clients} client-resources-num-cpus=1"'
            )
        time.sleep(_POLL_SECONDS)
    return nodes
