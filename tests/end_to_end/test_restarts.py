"""A SuperLink that ends in the middle of a call: what it has kept without saying so is neither lost nor a mistake."""
# the wire's methods are Flower's

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PushObjectResponse
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import generate_key_pairs
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from flwr.supernode import fleet_http_connection

from client.supernode.superlink_check import hold_on
from common.errors import FedShieldError
from server.network import polling_grid
from server.network.polling_grid import PollingGrid
from server.network.superlink import answer_again
from simulations.deployment.certificates import make_certs
from tests.end_to_end.test_reach import Send
from tests.helpers.processes import free_ports

pytestmark = pytest.mark.usefixtures("speaking")


class Database:
    """What Flower's SuperLink does with a ServerApp's calls, on a database of its own; its two clients answer at once.

    Args:
        folder: for the database.
        cut: the call that it is killed in, once, after it has done it and before it has said so. Flower's client then
            makes the call again.
    """

    def __init__(self, folder: Path, cut: str) -> None:
        place = str(folder / "superlink.db")
        stores = ObjectStoreFactory(place)
        self.state = LinkStateFactory(place, NoOpFederationManager(), stores).state()
        self.run = self.state.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, "", TaskType.SERVER_APP)
        TaskIdentity.run_id = self.run
        self.nodes = [self.state.create_node("", "", key, 30) for key in (b"first", b"second")]
        for node in self.nodes:
            self.state.activate_node(node, 1000)
        self.cut = cut
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        handlers = {
            "GetNodes": runtime_handlers.get_nodes,
            "PushMessages": runtime_handlers.push_messages,
            "PushObject": runtime_handlers.push_object,
            "PullMessages": runtime_handlers.pull_messages,
            "PullObject": runtime_handlers.pull_object,
            "ConfirmMessageReceived": runtime_handlers.confirm_message_received,
        }
        if name not in handlers:
            raise AttributeError(name)

        def call(request: Any) -> Any:
            if name == "PullMessages":
                self.answer()
            task: Any = SimpleNamespace(run_id=self.run)
            done = handlers[name](request, self.state, task)
            if name == self.cut:
                self.cut = ""
                done = handlers[name](request, self.state, task)
            return done

        return call

    def answer(self) -> None:
        """Let the clients reply to what they have been sent, and forget it, as they do."""
        for node in self.nodes:
            for message in self.state.get_message_ins(node, limit=None):
                self.asked.append(node)
                self.state.object_store.delete(message.metadata.message_id)
                content = RecordDict({"metrics": MetricRecord({"node": node}), "arrays": model(2)})
                reply = Message(content, reply_to=message)
                reply.metadata.__dict__.update(_src_node_id=node, _message_id=reply.object_id)
                session = self.state.start_session(self.run)
                self.state.store_message_and_object_tree(reply, get_object_tree(reply), session)
                for key, part in get_all_nested_objects(reply).items():
                    self.state.store_object(self.run, session, key, part.deflate())


def model(value: int) -> ArrayRecord:
    return ArrayRecord({"weight": Array(np.full(1000, value, np.float32))})


def grid_on(database: Any, run: int) -> PollingGrid:
    flowers = HttpGrid(token="any")
    flowers._client = database
    flowers.set_run(Run.create_empty(run))
    return PollingGrid(flowers)


CALLS = ["GetNodes", "PushMessages", "PushObject", "PullMessages", "PullObject", "ConfirmMessageReceived"]


@pytest.mark.parametrize("cut", CALLS)
def test_a_superlink_that_is_killed_in_a_call_costs_no_reply(tmp_path: Path, cut: str) -> None:
    database = Database(tmp_path, cut)
    grid = grid_on(database, database.run)
    assert {node.node_id for node in grid.get_nodes()} == set(database.nodes)
    content = RecordDict({"arrays": model(1)})
    messages = [Message(content, node, MessageType.TRAIN) for node in database.nodes]
    replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=300)}
    assert database.cut == ""
    assert set(replies) == set(database.nodes)
    for node, reply in replies.items():
        assert not reply.has_error(), reply.error.reason
        assert reply.content.metric_records["metrics"]["node"] == node
        assert reply.content.array_records["arrays"]["weight"].numpy().tolist() == [2.0] * 1000
    # A reply that is lost is the one thing for which a client must work again.
    assert sorted(database.asked) == sorted(database.nodes * (2 if cut == "PullMessages" else 1))


@pytest.fixture
def patient_superlink(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("get_message_ins", "store_object"):
        monkeypatch.setattr(SqlLinkState, name, getattr(SqlLinkState, name))
    answer_again()


@pytest.mark.usefixtures("patient_superlink")
def test_a_message_is_handed_out_again_until_the_client_has_it(tmp_path: Path) -> None:
    database = Database(tmp_path, "")
    node, other = database.nodes
    grid = grid_on(database, database.run)
    grid.push_messages([Message(RecordDict({"arrays": model(1)}), node, MessageType.TRAIN)])

    def ask(who: int) -> list[str]:
        request = PullMessagesRequest()
        request.node.node_id = who
        answer = fleet_handlers.pull_messages(request, database.state, database.state.object_store)
        return [message.metadata.message_id for message in answer.messages_list]

    (message,) = ask(node)
    assert ask(node) == [message]
    assert ask(other) == []
    database.state.object_store.delete(message)  # what a client's word does that it has all of it
    assert ask(node) == []


@pytest.mark.usefixtures("patient_superlink")
def test_a_message_that_was_answered_is_not_handed_out_again(tmp_path: Path) -> None:
    database = Database(tmp_path, "PushObject")
    content = RecordDict({"arrays": model(1)})
    messages = [Message(content, node, MessageType.TRAIN) for node in database.nodes]
    assert len(list(grid_on(database, database.run).send_and_receive(messages, timeout=300))) == 2
    database.answer()
    assert sorted(database.asked) == sorted(database.nodes)


@pytest.mark.usefixtures("patient_superlink")
def test_a_piece_that_is_stored_already_is_taken_again_and_no_other_in_its_place(tmp_path: Path) -> None:
    state = Database(tmp_path, "").state
    message = Message(RecordDict({"arrays": model(1)}), 1, MessageType.TRAIN)
    message.metadata.__dict__.update(_src_node_id=1, _message_id=message.object_id)
    session = state.start_session(TaskIdentity.run_id)
    state.preregister_object_tree(get_object_tree(message), session)
    for key, part in get_all_nested_objects(message).items():
        content = part.deflate()
        assert not state.store_object(TaskIdentity.run_id, session, key, content + b"x")
        session = state.start_session(TaskIdentity.run_id)
        state.preregister_object_tree(get_object_tree(message), session)
        for _ in range(2):
            assert state.store_object(TaskIdentity.run_id, session, key, content)
        assert not state.store_object(TaskIdentity.run_id, session, key, b"other")


def test_a_superlink_that_keeps_nothing_ends_the_run_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling_grid, "_POLL_SECONDS", 0.01)
    database = Database(tmp_path, "")
    monkeypatch.setattr(database, "PushObject", lambda _: PushObjectResponse(stored=False), raising=False)
    message = Message(RecordDict({"arrays": model(1)}), database.nodes[0], MessageType.TRAIN)
    with pytest.raises(FedShieldError, match=r"^the SuperLink did not store what was sent 10 times; its log says "):
        list(grid_on(database, database.run).send_and_receive([message], timeout=300))


async def nothing_new(scope: dict[str, Any], _: object, send: Send) -> None:
    """Answer every call of Flower's with an empty message, and those that tell that a node lives with yes."""
    if scope["type"] == "http":
        headers = [(b"content-type", b"application/protobuf")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"\x08\x01" if "heartbeat" in scope["path"] else b""})


@pytest.fixture
def breaking(tmp_path: Path) -> Iterator[str]:
    """A SuperLink over TLS that ends while the first connections are made."""
    make_certs(tmp_path, 1, ["127.0.0.1"])
    (port,) = free_ports(1)
    certs = tmp_path / "superlink"
    files = {"ssl_certfile": certs / "server.crt", "ssl_keyfile": str(certs / "server.key")}
    server = uvicorn.Server(uvicorn.Config(nothing_new, "127.0.0.1", port, log_level="error", **files))  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", port)) as listener:

        def serve() -> None:
            for _ in range(2):
                line, _address = listener.accept()
                line.recv(65536)
                line.close()
            server.run(sockets=[listener])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{port}"
        server.should_exit = True
        thread.join(30)


def test_a_connection_of_the_server_that_breaks_while_it_is_made_is_made_again(tmp_path: Path, breaking: str) -> None:
    flowers = HttpGrid(breaking, root_certificates=(tmp_path / "ca.crt").read_bytes(), token="any")
    assert list(PollingGrid(flowers).get_nodes()) == []
    flowers.close()


def test_a_connection_of_a_client_that_breaks_while_it_is_made_is_made_again(
    tmp_path: Path, breaking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("make_simple_http_retry_invoker", "HeartbeatSender"):
        monkeypatch.setattr(fleet_http_connection, name, getattr(fleet_http_connection, name))
    monkeypatch.setattr(fleet_http_connection, "flwr_exit", lambda *told: pytest.fail(str(told)))
    hold_on()
    key = generate_key_pairs()
    with fleet_http_connection.http_request_response(breaking, False, str(tmp_path / "ca.crt"), key) as connection:
        _, receive, *_ = connection
        assert receive() is None


def test_a_client_is_heard_again_after_a_disk_of_the_superlink_was_full(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("make_simple_http_retry_invoker", "HeartbeatSender"):
        monkeypatch.setattr(fleet_http_connection, name, getattr(fleet_http_connection, name))
    answers, heard = iter([500, 507, 200]), threading.Event()

    class SuperLink(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(next(answers, 200))
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), SuperLink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def heartbeat() -> bool:  # as Flower's own: what is no answer is an error
            httpx.post(f"http://127.0.0.1:{server.server_port}").raise_for_status()
            heard.set()
            return True

        hold_on()
        sender = fleet_http_connection.HeartbeatSender(heartbeat)
        sender.start()
        assert heard.wait(120)
        assert sender.is_running
        sender.stop()
        server.shutdown()


def test_a_certificate_that_is_not_believed_is_given_up(tmp_path: Path, breaking: str) -> None:
    make_certs(tmp_path / "other", 1, ["127.0.0.1"])
    flowers = HttpGrid(breaking, root_certificates=(tmp_path / "other" / "ca.crt").read_bytes(), token="any")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        PollingGrid(flowers).get_nodes()
    flowers.close()
