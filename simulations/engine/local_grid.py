"""LocalGrid: Flower's ServerApp and ClientApp on one machine, without Flower's daemon."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from common.config.schema import RunConfig
from common.messages.protocol import CONFIG, NUM_PARTITIONS, PARTITION_ID, SECONDS, SERVER_ROUND
from server.network.roster import client_name
from simulations.engine.executor import Executor, Job

if TYPE_CHECKING:
    from common.messages.records import State

_RUN_ID = 1
_SERVER_NODE = 1


@dataclass(frozen=True)
class Reply:
    """A client's reply, for those who watch.

    Attributes:
        message: the reply.
        client: whose it is.
        server_round: of the message that it answers; 0 outside rounds.
        answered: replies so far.
        sent: messages that were sent.
    """

    message: Message
    client: int
    server_round: int
    answered: int
    sent: int

    @property
    def seconds(self) -> float | None:
        """How long the client trained; None for a reply that is an error."""
        if self.message.has_error():
            return None
        return next((float(str(m[SECONDS])) for m in self.message.content.metric_records.values()), None)


class LocalGrid(Grid):
    """A Grid whose nodes are the clients of one configuration, run by an executor.

    Args:
        config: the run's configuration; every client receives it as its run config.
        executor: where the clients run.
        on_reply: called after each reply.
    """

    def __init__(self, config: RunConfig, executor: Executor, on_reply: Callable[[Reply], None] | None = None) -> None:
        # A Message takes its run and source from Flower's launchers, which are not there. This is internal to Flower.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, _RUN_ID, _SERVER_NODE
        self._run = Run.create_empty(_RUN_ID)
        self._executor = executor
        self._on_reply = on_reply or (lambda reply: None)
        clients, flat = config.federation.clients, config.flat()
        self._method = config.method.name
        self._contexts = {
            _SERVER_NODE + 1 + client: Context(
                run_id=_RUN_ID,
                node_id=_SERVER_NODE + 1 + client,
                node_config={PARTITION_ID: client, NUM_PARTITIONS: clients},
                state=RecordDict(),
                run_config=dict(flat),
            )
            for client in range(clients)
        }
        self._replies: dict[str, Message] = {}

    def kept(self, counted: Sequence[int]) -> "State":
        """Return what the clients kept in their last turns that counted, as ``CLIENT/NAME``.

        Args:
            counted: the round of that turn, by client; 0 for none.
        """
        from client.kept import read_kept  # imports torch

        states = [context.state for context in self._contexts.values()]
        kept = [read_kept(*each) or {} for each in zip(states, repeat(self._method), counted, strict=False)]
        return {f"{client}/{name}": array for client, arrays in enumerate(kept) for name, array in arrays.items()}

    def restore_kept(self, kept: "State", counted: Sequence[int]) -> None:
        """Give the clients what they kept.

        Args:
            kept: as ``kept`` has returned it.
            counted: as there.
        """
        from client.kept import write_kept

        found: dict[int, State] = {}
        for place, array in kept.items():
            number, _, name = place.partition("/")
            found.setdefault(int(number), {})[name] = array
        for client, arrays in found.items():
            write_kept(self._contexts[_SERVER_NODE + 1 + client].state, self._method, arrays, counted[client])

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients' node ids."""
        return list(self._contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the clients' nodes, by the names that real clients' keys have."""
        return [NodeInfo(node_id=node, name=client_name(node - _SERVER_NODE - 1)) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the messages' clients to their end and keep the replies."""
        messages = list(messages)
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in self._deliver(messages, None)}
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out kept replies, each once."""
        return [self._replies.pop(identity) for identity in message_ids if identity in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the clients' replies one by one: a client runs when the next reply is asked for.

        So a server that takes them in the order of the messages holds one at a time, where one client runs at a time.

        Args:
            messages: one for each client.
            timeout: how long each client may take, in seconds, where the executor can end it.
        """
        return self._deliver(list(messages), timeout)

    def _deliver(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        """Run the messages' clients and yield their replies."""
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid4().hex  # what Flower's SuperLink does
        jobs = [Job(message, self._contexts[message.metadata.dst_node_id]) for message in messages]
        for answered, (reply, state) in enumerate(self._executor.run(jobs, timeout), 1):
            self._contexts[reply.metadata.src_node_id].state = state
            order = messages[0].content.config_records.get(CONFIG)
            server_round = int(str(order[SERVER_ROUND])) if order else 0
            client = reply.metadata.src_node_id - _SERVER_NODE - 1
            self._on_reply(Reply(reply, client, server_round, answered, len(jobs)))
            yield reply


def run_server(app: ServerApp, grid: LocalGrid, config: RunConfig) -> Context:
    """Run a ServerApp to its end on a LocalGrid; return its context."""
    context = Context(_RUN_ID, _SERVER_NODE, {}, RecordDict(), config.flat())
    app(grid, context)
    return context
