"""Which client is on which of Flower's nodes: the nodes are asked, since ids are random and clients come and go."""

import logging
import math
import re
import time
from collections.abc import Mapping
from reprlib import repr as shortened
from typing import Any

from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from common.config.tables import FederationConfig
from common.errors import FedShieldError
from common.messages.protocol import METRICS, NUM_EXAMPLES, PARTITION_ID
from common.words import in_one_line

log = logging.getLogger("fedshield")

_POLL_SECONDS = 0.5
_ASK_SECONDS = 60.0  # for one question at the start; a client that loads its data for longer is asked again
_SILENT = "was asked who it is and did not answer in time"


def client_name(client: int) -> str:
    """Return the name under which a client's key is registered, which says whose node it is."""
    return f"client-{client}"


def client_of(name: str) -> int | None:
    """Return the client whose name this is, None if it is no client's."""
    match = re.fullmatch(r"client-(0|[1-9]\d*)", name)
    return None if match is None else int(match[1])


class Roster:
    """The clients that can be reached, by number.

    A node whose key is registered under a client's name is that client's, and no other number is believed of it. Where
    no node has such a name, as in a simulation or without keys, a client is who it says it is. What else a client says
    never tells which client it is.

    Args:
        grid: asked for its nodes.
        federation: how many clients there are, and how long to wait for them.
        examples: own training images of each client; one that has another number is not taken.
    """

    def __init__(self, grid: Grid, federation: FederationConfig, examples: tuple[int, ...]) -> None:
        self._grid = grid
        self._federation = federation
        self._examples = examples
        self._names: dict[int, str] = {}  # of the nodes that are there now, as registered; "" without one
        self._named: dict[int, int] = {}  # node -> client, of those whose name is a client's
        self._client_of: dict[int, int] = {}  # of every node that has said so, in the order of asking
        self._present: dict[int, int] = {}  # client -> node
        self._failures: dict[int, str] = {}  # node -> why no client of this run is on it at present
        self._silences: dict[int, int] = {}  # node -> how often it has not answered, of those without a client
        self._meetings = 0

    def node(self, client: int) -> int | None:
        """Return the node of a client, or None when it is not connected, as far as is known."""
        return self._present.get(client)

    def failure(self, client: int) -> str:
        """Return why a client has no node."""
        unknown = ""
        for node, reason in self._failures.items():
            owner = self._owner(node)
            if owner == client:
                return reason
            if owner is None:
                unknown = unknown or f", or the unknown client that {reason}"
        return f"not connected{unknown}"

    def gather(self) -> None:
        """Wait until all clients are there and ready; go on without some if ``federation.min-fraction`` allows it.

        The question also makes every client load its data, so that missing data is found early. Nodes that are
        not there yet are waited for ``federation.node-wait-seconds``; so are those that are there and silent, which may
        be loading, or for ``federation.client-timeout-seconds``, if that is more and the run cannot begin without them.

        Raises:
            FedShieldError: too few clients.
        """
        wanted = self._federation.clients
        enough = math.ceil(self._federation.min_fraction * wanted - 1e-9)
        start = time.monotonic()
        while True:
            nodes = self._meet(min(self._federation.client_timeout_seconds, _ASK_SECONDS), insist=True)
            missing = [client for client in range(wanted) if client not in self._present]
            begin = wanted - len(missing) >= enough
            silent = any(self._silences.values())
            patience = self._federation.node_wait_seconds if silent or nodes < wanted else 0
            if silent and not begin:
                patience = max(patience, self._federation.client_timeout_seconds)
            if not missing or time.monotonic() - start >= patience:
                break
            time.sleep(_POLL_SECONDS)
        if not begin:
            raise FedShieldError(self._complaint(nodes, missing))
        for client in missing:
            log.warning("client %d: %s; the run begins without it", client, self.failure(client))

    def meet(self) -> None:
        """Find out who is connected now, and ask unknown nodes who they are, for ``federation.node-wait-seconds``.

        A node that has been silent n times is asked only in every 2^n-th round, or it would delay every round.
        """
        self._meet(self._federation.node_wait_seconds)

    def _meet(self, timeout: float, insist: bool = False) -> int:
        """Find out and ask, with ``insist`` also silent nodes; return the number of connected nodes."""
        self._meetings += 1
        self._names = {info.node_id: info.name for info in self._grid.get_nodes()}
        owners = {node: client_of(name) for node, name in self._names.items()}
        self._named = {node: owner for node, owner in owners.items() if owner is not None}
        strangers = sorted(self._names.keys() - self._client_of.keys())
        before = self._failures
        self._failures = {node: before.get(node, _SILENT) for node in strangers}
        self._silences = {node: self._silences.get(node, 0) for node in strangers}
        gone = self._ask([n for n in strangers if insist or self._meetings % 2 ** self._silences[n] == 0], timeout)
        self._present = {}
        for node, client in self._client_of.items():
            if node not in self._names:
                continue
            if conflict := self._conflict(node, client):
                self._failures[node] = conflict
                if before.get(node) != conflict:
                    log.warning("%s", self._told(node))
            else:
                self._present[client] = node
        return len(self._names) - gone

    def _owner(self, node: int) -> int | None:
        """Return whose a node is: by its name, or by its own answer where no node has a client's name."""
        return (self._named or self._client_of).get(node)

    def _conflict(self, node: int, client: int) -> str:
        """Return why a node is not accepted as the client that it says it is, "" if it is."""
        name = self._names[node]
        if self._named and node not in self._named:
            how = f"as {in_one_line(name)!r}" if name else "without a name"
            return (
                f"says that it is client {client}, and its key is registered {how}, not as {client_name(client)}; "
                f"unregister node {node}, and let fedshield register a new key"
            )
        if (rival := self._present.get(client)) is None:
            return ""
        if node in self._named:
            return f"is on node {rival} and on node {node}, both registered as {name}; unregister one of them"
        return "is already on another node; give each client its own number"

    def _ask(self, nodes: list[int], timeout: float) -> int:
        """Ask nodes who is there; return how many are gone, which Flower lists for a minute after they have died."""
        gone = 0
        queries = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
        asked: dict[str, int] = {}
        for reply in self._grid.send_and_receive(queries, timeout=timeout) if queries else ():
            question = reply.metadata.reply_to_message_id
            if question not in asked:  # as in the strategy: Flower names a message when it is sent
                asked = {query.metadata.message_id: query.metadata.dst_node_id for query in queries}
            node = asked.get(question)
            if node is not None:
                nodes.remove(node)
                self._silences[node] = 0
                gone += reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE
                self._hear(node, reply)
        for node in nodes:
            self._silences[node] += 1
        return gone

    def _hear(self, node: int, reply: Message) -> None:
        """Note which client is on a node, or why none is."""
        answer: Mapping[str, Any] = {} if reply.has_error() else reply.content.metric_records.get(METRICS, {})
        if reason := self._objection(node, answer, reply.error if reply.has_error() else None):
            self._failures[node] = reason
        else:
            self._failures.pop(node, None)
            self._client_of[node] = answer[PARTITION_ID]

    def _objection(self, node: int, answer: Mapping[str, Any], error: Error | None) -> str:
        """Return why what a node has answered makes it no client of this run, "" if it does."""
        if error is not None and error.code == ErrorCode.NODE_UNAVAILABLE:
            return "can no longer be reached (Node Unavailable)"
        if error is not None:
            return f'says "{in_one_line(error.reason)}"' if error.reason else f"could not start (error {error.code})"
        client, images = answer.get(PARTITION_ID), answer.get(NUM_EXAMPLES)
        if type(client) is not int or not 0 <= client < len(self._examples):
            answered, most = in_one_line(shortened(client)), len(self._examples) - 1
            return f"was asked who it is and answered {answered}, expected a number from 0 to {most}"
        if (named := self._named.get(node, client)) != client:
            return f"says that it is client {client}; give its SuperNode partition-id={named}"
        if images != self._examples[client]:
            return (
                f"says that it is client {client} and has {in_one_line(shortened(images))} images, expected "
                f"{self._examples[client]}; give server and clients data that was divided together"
            )
        return ""

    def _told(self, node: int) -> str:
        """Return the failure on a node as a sentence about its client."""
        owner = self._owner(node)
        return f"{'an unknown client' if owner is None else f'client {owner}:'} {self._failures[node]}"

    def _complaint(self, nodes: int, missing: list[int]) -> str:
        clients = self._federation.clients
        absent = f"client {', '.join(map(str, missing))} of {clients}"
        # A key of a larger federation may be there too.
        if failing := [node for node in self._failures if (self._owner(node) or 0) < clients]:
            told = self._told(failing[0])
            if self._owner(failing[0]) is None:
                told = f"{absent} is missing: {told}"
            return told if len(failing) == 1 else f"{told} (and {len(failing) - 1} other clients with problems)"
        if nodes < clients:
            return (
                f"federation.clients = {clients}, but {nodes} nodes are there after "
                f"{self._federation.node_wait_seconds} s; start a SuperNode for each client, or simulate them with: "
                f'flwr run . --stream --federation-config "num-supernodes={clients} client-resources-num-cpus=1"'
            )
        return f"no node answered for {absent}; start one for each partition-id from 0"
