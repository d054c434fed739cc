"""Who is there: clients are known by their own numbers, and may come late, go and come back."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.factory import server_data
from server.network.roster import Roster
from simulations.engine.executor import InProcess, Job, Outcome
from simulations.engine.local_grid import LocalGrid
from tests.helpers.settings import tiny_config


def roster(grid: LocalGrid, config: RunConfig, **changes: object) -> Roster:
    asked = tiny_config(**changes) if changes else config
    return Roster(grid, asked.federation, tuple(server_data(config).counts.sum(axis=1).tolist()))


def test_every_client_is_found_by_its_number() -> None:
    config = tiny_config()
    grid = LocalGrid(config, InProcess())
    found = roster(grid, config)
    found.gather()
    assert [found.node(client) for client in range(10)] == list(grid.get_node_ids())


def test_too_few_nodes_end_with_the_command_that_helps() -> None:
    few = tiny_config(federation__clients=2, partition__scheme="iid")
    with pytest.raises(FedShieldError) as caught:
        roster(LocalGrid(few, InProcess()), few, federation__node_wait_seconds=1).gather()
    assert str(caught.value) == (
        "federation.clients = 10, but 2 nodes are there after 1 s; start a SuperNode for each client, or simulate them "
        'with: flwr run . --stream --federation-config "num-supernodes=10 client-resources-num-cpus=1"'
    )


def test_clients_that_cannot_start_are_named() -> None:
    broken, whole = tiny_config(data__name="folder", data__root="/nowhere"), tiny_config()
    expected = r'^client 0: says "data\.root: no folder /nowhere/train; .*" \(and 9 other clients with problems\)$'
    with pytest.raises(FedShieldError, match=expected):
        roster(LocalGrid(broken, InProcess()), whole).gather()


def test_the_reason_of_a_client_is_kept_while_it_does_not_answer() -> None:
    broken = tiny_config(data__name="folder", data__root="/nowhere")
    grid = ComingAndGoing(broken, InProcess())
    found = roster(grid, tiny_config())
    found.meet()
    grid.silent = True
    found.meet()
    assert grid.asked == 20
    assert found.failure(3).startswith('says "data.root: no folder /nowhere/train; ')


class Restarting(InProcess):
    """Clients that Flower lists and does not reach, the first times that they are asked."""

    def __init__(self, times: int) -> None:
        self.left = times

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        self.left -= 1
        if self.left >= 0:
            for job in jobs:
                gone = Error(ErrorCode.NODE_UNAVAILABLE, "Node Unavailable")
                yield Message(gone, reply_to=job.message), job.context.state
        else:
            yield from super().run(jobs, timeout)


def test_clients_that_are_starting_again_are_waited_for() -> None:
    config = tiny_config(federation__node_wait_seconds=20)
    grid = LocalGrid(config, Restarting(1))
    found = roster(grid, config)
    found.gather()
    assert [found.node(client) for client in range(10)] == list(grid.get_node_ids())
    gone = LocalGrid(config, Restarting(99))
    with pytest.raises(FedShieldError, match="Node Unavailable"):
        roster(gone, config, federation__node_wait_seconds=1).gather()


def test_a_client_with_other_images_than_the_server_thinks_is_not_taken() -> None:
    other, whole = tiny_config(data__max_examples=300), tiny_config()
    expected = r"^client 0: says that it is client 0 and has 24 images, expected 16; give server and clients data "
    with pytest.raises(FedShieldError, match=expected):
        roster(LocalGrid(other, InProcess()), whole).gather()


class ComingAndGoing(LocalGrid):
    """A grid whose nodes are there when the test says so, and that counts the questions."""

    away: frozenset[int] = frozenset()
    asked = 0
    silent = False

    def get_node_ids(self) -> list[int]:
        return [node for node in super().get_node_ids() if node not in self.away]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        self.asked += len(messages)
        return [] if self.silent else super().send_and_receive(messages, timeout=timeout)


class Deaf(ComingAndGoing):
    """A grid one of whose nodes takes questions and never answers."""

    deaf = -1

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        heard = [message for message in messages if message.metadata.dst_node_id != self.deaf]
        self.asked += len(messages) - len(heard)
        return LocalGrid.send_and_receive(self, heard, timeout=timeout)


def test_a_node_that_never_answers_holds_up_neither_the_start_nor_each_round() -> None:
    config = tiny_config(federation__min_fraction=0.8, federation__node_wait_seconds=1)
    grid = Deaf(config, InProcess())
    grid.deaf = list(grid.get_node_ids())[4]
    found = roster(grid, config)
    found.gather()
    assert grid.asked <= 4  # every half second for federation.node-wait-seconds, not for client-timeout-seconds
    assert [client for client in range(10) if found.node(client) is None] == [4]
    grid.asked = 0
    for _ in range(64):
        found.meet()
    assert grid.asked <= 6  # as many as 64 has powers of two
    grid.deaf = -1
    for _ in range(64):
        found.meet()
    assert found.node(4) is not None


@pytest.mark.parametrize(("wait", "timeout"), [(0, 3), (3, 1)])
def test_a_run_that_cannot_begin_without_a_silent_client_waits_for_it(wait: int, timeout: int) -> None:
    config = tiny_config(federation__node_wait_seconds=wait, federation__client_timeout_seconds=timeout)
    grid = Deaf(config, InProcess())
    grid.deaf = list(grid.get_node_ids())[4]
    with pytest.raises(FedShieldError, match=r"^client 4: was asked who it is and did not answer in time$"):
        roster(grid, config).gather()
    assert 3 <= grid.asked <= 7


@pytest.mark.parametrize("words", ["broken\nround 1/8  natural 99.0 %", "broken\x1b[2J\x07", "b" * 10_000])
def test_what_a_client_says_is_one_short_line_of_letters(words: str) -> None:
    config = tiny_config()
    grid = LocalGrid(config, Answering(Error(0, words)))
    with pytest.raises(FedShieldError) as caught:
        roster(grid, config).gather()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_run_begins_without_a_client_and_takes_it_when_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fedshield").propagate = True
    config = tiny_config(federation__min_fraction=0.8, federation__node_wait_seconds=1)
    grid = ComingAndGoing(config, InProcess())
    late = list(grid.get_node_ids())[4]
    grid.away = frozenset({late})
    found = roster(grid, config)
    found.gather()
    assert found.node(4) is None
    assert found.failure(4) == "not connected"
    assert "client 4: not connected; the run begins without it" in caplog.text
    grid.away = frozenset()
    found.meet()
    assert found.node(4) == late
    assert grid.asked == 10
    grid.away = frozenset({late})
    found.meet()
    assert found.node(4) is None
    grid.away = frozenset()
    found.meet()
    assert found.node(4) == late
    assert grid.asked == 10  # nobody is asked twice


def nodes_with(
    names: dict[int, str], claims: dict[int, int], away: frozenset[int] = frozenset()
) -> tuple[ComingAndGoing, Roster]:
    """Ten clients, some of whose keys are registered under other names, or that say they are another."""
    config = tiny_config(federation__min_fraction=0.5, federation__node_wait_seconds=0)
    grid = Registered(config, InProcess())
    grid.names = names
    grid.away = frozenset(first(grid) + client for client in away)
    for client, number in claims.items():
        grid._contexts[first(grid) + client].node_config["partition-id"] = number
    return grid, roster(grid, config)


def first(grid: LocalGrid) -> int:
    return min(grid._contexts)


class Registered(ComingAndGoing):
    """A grid whose nodes have the names that the test gives them, and those of their clients otherwise."""

    names: Mapping[int, str] = MappingProxyType({})

    def get_nodes(self) -> list[NodeInfo]:
        known = {first(self) + client: name for client, name in self.names.items()}
        return [NodeInfo(node_id=info.node_id, name=known.get(info.node_id, info.name)) for info in super().get_nodes()]


NAMELESS = dict.fromkeys(range(10), "")


def test_a_client_cannot_take_the_number_of_another_that_comes_later() -> None:
    grid, found = nodes_with({}, {7: 3}, away=frozenset({3}))
    found.gather()
    assert (found.node(3), found.node(7)) == (None, None)
    assert found.failure(3) == "not connected"
    assert found.failure(7) == "says that it is client 3; give its SuperNode partition-id=7"
    grid.away = frozenset()
    found.meet()
    assert (found.node(3), found.node(7)) == (first(grid) + 3, None)
    grid._contexts[first(grid) + 7].node_config["partition-id"] = 7  # a mistake that has been mended
    found.meet()
    assert found.node(7) == first(grid) + 7


@pytest.mark.parametrize(
    ("name", "how"), [("", "without a name"), ("hospital", "as 'hospital'"), ("client-03", "as 'c")]
)
def test_a_key_without_a_clients_name_is_nobodys_where_others_have_one(name: str, how: str) -> None:
    everybody = frozenset(range(10)) - {7}
    grid, found = nodes_with({7: name}, {7: 3}, away=everybody)
    found.meet()
    assert found.node(3) == first(grid) + 7  # alone it cannot be told from a federation without names
    grid.away = frozenset({first(grid) + 3})
    found.meet()
    assert (found.node(3), found.node(7)) == (None, None)
    reason = found.failure(3)
    assert reason == found.failure(7)
    assert reason.startswith("not connected, or the unknown client that says that it is client 3, and its key is ")
    assert f"registered {how}" in reason
    assert f"unregister node {first(grid) + 7}, and let fedshield register a new key" in reason


def test_where_no_node_has_a_name_a_client_is_who_it_says_and_the_first_keeps_the_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("fedshield").propagate = True
    grid, found = nodes_with(NAMELESS, {7: 3}, away=frozenset({7}))
    found.gather()
    grid.away = frozenset()
    for _ in range(2):
        found.meet()
        assert (found.node(3), found.node(7)) == (first(grid) + 3, None)
    assert caplog.text.count("client 3: is already on another node; give each client its own number") == 1


def test_two_keys_of_one_name_are_told_and_the_first_keeps_the_number(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fedshield").propagate = True
    grid, found = nodes_with({7: "client-3"}, {7: 3})
    found.gather()
    assert found.node(3) == first(grid) + 3
    expected = f"client 3: is on node {first(grid) + 3} and on node {first(grid) + 7}, both registered as client-3; "
    assert expected in caplog.text


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (RecordDict(), "None"),
        *(
            (RecordDict({"metrics": MetricRecord({"partition-id": given, "num-examples": 16})}), told)
            for given, told in ((math.inf, "inf"), ([3, 3], "[3, 3]"), (-7, "-7"), (3.0, "3.0"), (10, "10"))
        ),
    ],
)
def test_what_is_no_number_of_a_client_is_told_of_the_client_that_has_answered_it(
    answer: RecordDict, told: str
) -> None:
    config = tiny_config(federation__min_fraction=0.5, federation__node_wait_seconds=0)
    grid = LocalGrid(config, OneAnswering(answer, first(LocalGrid(config, InProcess())) + 7))
    found = roster(grid, config)
    found.gather()
    assert found.node(7) is None
    assert found.failure(7) == f"was asked who it is and answered {told}, expected a number from 0 to 9"


def test_what_a_client_of_a_larger_federation_says_is_no_reason_of_this_one() -> None:
    config = tiny_config(federation__clients=2, partition__scheme="iid", federation__node_wait_seconds=0)
    grid = Registered(config, InProcess())
    grid.names = {1: "client-7"}
    grid._executor = OneAnswering(Error(0, "no number of this federation"), first(grid) + 1)
    with pytest.raises(FedShieldError, match=r"^no node answered for client 1 of 2; start one for each partition-id"):
        roster(grid, config).gather()


@pytest.mark.parametrize("names", [{}, NAMELESS])
def test_a_client_that_speaks_of_another_is_not_taken_for_it(names: dict[int, str]) -> None:
    grid, found = nodes_with(names, {}, away=frozenset({3}))
    grid._executor = OneAnswering(Error(0, "client 3: the disk is full"), first(grid) + 7)
    found.gather()
    said = 'says "client 3: the disk is full"'
    unknown = f"not connected, or the unknown client that {said}"
    assert found.failure(7) == (unknown if names else said)
    assert found.failure(3) == (unknown if names else "not connected")


class Answering(InProcess):
    """Clients that all give the same answer."""

    def __init__(self, answer: RecordDict | Error) -> None:
        super().__init__()
        self.answer = answer

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        for job in jobs:
            yield Message(self.answer, reply_to=job.message), job.context.state


class OneAnswering(Answering):
    """One client gives this answer, the others answer well."""

    def __init__(self, answer: RecordDict | Error, node: int) -> None:
        super().__init__(answer)
        self.node = node

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        yield from super().run([job for job in jobs if job.message.metadata.dst_node_id == self.node], timeout)
        well = [job for job in jobs if job.message.metadata.dst_node_id != self.node]
        yield from InProcess.run(self, well, timeout)
