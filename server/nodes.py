"""Which client is on which of Flower's nodes: learnt by asking, since node ids are random and clients come and go."""

import logging
import math
import time

from flwr.app import Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from common.config import FederationConfig
from common.errors import FedShieldError

log = logging.getLogger("fedshield")

_POLL_SECONDS = 0.5


class Roster:
    """The clients that can be reached, by number.

    Args:
        grid: asked for its nodes.
        federation: how many clients there are, and how long to wait for them.
        examples: own training images of each client; one that has another number is not taken.
    """

    def __init__(self, grid: Grid, federation: FederationConfig, examples: tuple[int, ...]) -> None:
        self._grid = grid
        self._federation = federation
        self._examples = examples
        self._client_of: dict[int, int] = {}  # of every node that has said so, in the order of asking
        self._present: dict[int, int] = {}  # client -> node
        self._troubles: dict[int, str] = {}  # node -> why no client of this run is on it, as of now

    def node(self, client: int) -> int | None:
        """Return the node of a client, or None when it is not connected, as far as is known."""
        return self._present.get(client)

    def trouble(self, client: int) -> str:
        """Return why a client has no node."""
        told = (reason for reason in self._troubles.values() if reason.startswith(f"client {client}: "))
        return next(told, "not connected")

    def gather(self) -> None:
        """Wait until all clients are there and ready; go on without some if ``federation.min-fraction`` allows it.

        The question also makes every client load its data, so that a lack shows before the first round.

        Raises:
            FedShieldError: too few clients after ``federation.node-wait-seconds``.
        """
        wanted = self._federation.clients
        deadline = time.monotonic() + self._federation.node_wait_seconds
        patience = self._federation.client_timeout_seconds
        found = self.meet(patience)
        while len(self._present) < wanted and found < wanted and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            found = self.meet(patience)
        missing = [client for client in range(wanted) if client not in self._present]
        if wanted - len(missing) < math.ceil(self._federation.min_fraction * wanted - 1e-9):
            raise FedShieldError(self._complaint(found, missing))
        for client in missing:
            reason = self.trouble(client).removeprefix(f"client {client}: ")
            log.warning("client %d: %s; the run begins without it", client, reason)

    def meet(self, timeout: float | None = None) -> int:
        """Look who is connected now, ask those who are not known yet, and return the number of nodes that are there.

        Args:
            timeout: for their answers, in seconds; ``federation.node-wait-seconds`` if not given.
        """
        timeout = self._federation.node_wait_seconds if timeout is None else timeout
        online = set(self._grid.get_node_ids())
        strangers = sorted(online - self._client_of.keys())
        silent = "a client that was asked who it is did not answer in time"
        self._troubles = {node: self._troubles.get(node, silent) for node in strangers}
        gone = 0  # nodes that Flower lists for a minute after they have died; they may be about to come back
        queries = [Message(RecordDict(), node, MessageType.QUERY) for node in strangers]
        for reply in self._grid.send_and_receive(queries, timeout=timeout) if queries else ():
            asked = {query.metadata.message_id: query.metadata.dst_node_id for query in queries}
            node = asked.get(reply.metadata.reply_to_message_id)
            if node is not None:
                gone += reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE
                self._hear(node, reply)
        self._present = {}
        for node, client in self._client_of.items():
            if node in online and self._present.setdefault(client, node) != node:
                self._troubles[node] = f"client {client}: is there on another node already; give each its own number"
                log.warning("%s", self._troubles[node])
        return len(online) - gone

    def _hear(self, node: int, reply: Message) -> None:
        """Take down who is on a node, or why nobody is."""
        if reply.has_error():
            self._troubles[node] = reply.error.reason or f"a client could not start (error {reply.error.code})"
            return
        try:
            answer = reply.content.metric_records["metrics"]
            client, images = int(answer["partition-id"]), int(answer["num-examples"])  # type: ignore[arg-type]
        except (KeyError, OverflowError, TypeError, ValueError):
            self._troubles[node] = "a client that was asked who it is gave no answer that can be read"
            return
        if 0 <= client < len(self._examples) and images != self._examples[client]:
            self._troubles[node] = (
                f"client {client}: has {images} images, expected {self._examples[client]}; give server and clients "
                "data that was divided together"
            )
            return
        self._troubles.pop(node, None)
        self._client_of[node] = client

    def _complaint(self, found: int, missing: list[int]) -> str:
        clients = self._federation.clients
        absent = f"client {', '.join(map(str, missing))} of {clients}"
        if self._troubles:
            first, *others = self._troubles.values()
            if not first.startswith("client "):  # its node does not say whose it is
                first = f"{absent} is missing: {first}"
            return f"{first} (and {len(others)} other clients with a trouble)" if others else first
        if found < clients:
            return (
                f"federation.clients = {clients}, but {found} nodes are there after "
                f"{self._federation.node_wait_seconds} s; start a SuperNode for each client, or simulate them with: "
                f'flwr run . --stream --federation-config "num-supernodes={clients} client-resources-num-cpus=1"'
            )
        return f"no node answered for {absent}; start one for each partition-id from 0"
