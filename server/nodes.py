"""Which client is on which of Flower's nodes: learnt by asking, since node ids are random and clients come and go."""

import logging
import math
import time

from flwr.app import Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from common.config import FederationConfig
from common.errors import FedShieldError
from common.words import in_one_line

log = logging.getLogger("fedshield")

_POLL_SECONDS = 0.5
_ASK_SECONDS = 60.0  # for one question at the start; a client that loads its data for longer is asked again
_SILENT = "a client that was asked who it is did not answer in time"


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
        self._silences: dict[int, int] = {}  # node -> how often it has not answered, of those without a client
        self._meetings = 0

    def node(self, client: int) -> int | None:
        """Return the node of a client, or None when it is not connected, as far as is known."""
        return self._present.get(client)

    def trouble(self, client: int) -> str:
        """Return why a client has no node."""
        told = (reason for reason in self._troubles.values() if reason.startswith(f"client {client}: "))
        return next(told, "not connected")

    def gather(self) -> None:
        """Wait until all clients are there and ready; go on without some if ``federation.min-fraction`` allows it.

        The question also makes every client load its data, so that a lack shows before the first round. Nodes that are
        not there yet are waited for ``federation.node-wait-seconds``; so are those that are there and silent, which may
        be loading, or for ``federation.client-timeout-seconds``, if that is more and the run cannot begin without them.

        Raises:
            FedShieldError: too few clients.
        """
        wanted = self._federation.clients
        enough = math.ceil(self._federation.min_fraction * wanted - 1e-9)
        start = time.monotonic()
        while True:
            found = self._meet(min(self._federation.client_timeout_seconds, _ASK_SECONDS), insist=True)
            missing = [client for client in range(wanted) if client not in self._present]
            begin = wanted - len(missing) >= enough
            silent = any(self._silences.values())
            patience = self._federation.node_wait_seconds if silent or found < wanted else 0
            if silent and not begin:
                patience = max(patience, self._federation.client_timeout_seconds)
            if not missing or time.monotonic() - start >= patience:
                break
            time.sleep(_POLL_SECONDS)
        if not begin:
            raise FedShieldError(self._complaint(found, missing))
        for client in missing:
            reason = self.trouble(client).removeprefix(f"client {client}: ")
            log.warning("client %d: %s; the run begins without it", client, reason)

    def meet(self) -> None:
        """Look who is connected now, and ask those who are not known yet, for ``federation.node-wait-seconds``.

        Those who have been silent n times are asked in every 2^n-th meeting, or they would hold up each round.
        """
        self._meet(self._federation.node_wait_seconds)

    def _meet(self, timeout: float, insist: bool = False) -> int:
        """Look and ask, also those who have been silent if ``insist``; return how many nodes are there."""
        self._meetings += 1
        online = set(self._grid.get_node_ids())
        strangers = sorted(online - self._client_of.keys())
        self._troubles = {node: self._troubles.get(node, _SILENT) for node in strangers}
        self._silences = {node: self._silences.get(node, 0) for node in strangers}
        gone = self._ask([n for n in strangers if insist or self._meetings % 2 ** self._silences[n] == 0], timeout)
        self._present = {}
        for node, client in self._client_of.items():
            if node in online and self._present.setdefault(client, node) != node:
                self._troubles[node] = f"client {client}: is there on another node already; give each its own number"
                log.warning("%s", self._troubles[node])
        return len(online) - gone

    def _ask(self, nodes: list[int], timeout: float) -> int:
        """Ask nodes who is there; return how many are gone, which Flower lists for a minute after they have died."""
        gone = 0
        queries = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
        for reply in self._grid.send_and_receive(queries, timeout=timeout) if queries else ():
            asked = {query.metadata.message_id: query.metadata.dst_node_id for query in queries}
            node = asked.get(reply.metadata.reply_to_message_id)
            if node is not None:
                nodes.remove(node)
                self._silences[node] = 0
                gone += reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE
                self._hear(node, reply)
        for node in nodes:
            self._silences[node] += 1
        return gone

    def _hear(self, node: int, reply: Message) -> None:
        """Take down who is on a node, or why nobody is."""
        if reply.has_error():
            reason = in_one_line(reply.error.reason or "")
            self._troubles[node] = reason or f"a client could not start (error {reply.error.code})"
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
