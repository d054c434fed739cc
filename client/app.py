"""The ClientApp: a message with the global model comes in, a message with the locally trained one goes out."""

from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from client.session import Examples, Session, session_for
from common.errors import FedShieldError
from common.records import find_shared, keep_shared, shared_digest


def _name_mistakes(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Answer a mistake that the user can mend with one line that names the client, on every engine."""
    try:
        return call_next(message, context)
    except FedShieldError as error:
        reason = f"client {context.node_config['partition-id']}: {error}"
        return Message(Error(code=0, reason=reason), reply_to=message)


app = ClientApp(mods=[_name_mistakes])


@app.query()
def enlist(message: Message, context: Context) -> Message:
    """Tell which client runs on this node, and how many images it has, once they are ready."""
    client = int(context.node_config["partition-id"])
    own, _ = _session(context).prepare(client)
    metrics = MetricRecord({"partition-id": client, "num-examples": len(own.labels)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model on this client's shard and the shared data."""
    order = message.content.config_records["config"]
    shared = None
    if "shared-digest" in order:
        shared = _shared_data(message.content.array_records.get("shared"), str(order["shared-digest"]))
    arrays, result = _session(context).train(
        int(context.node_config["partition-id"]),
        int(order["server-round"]),  # type: ignore[arg-type]
        message.content.array_records["arrays"],
        shared,
    )
    metrics = MetricRecord({"num-examples": result.examples, "loss": result.loss, "seconds": result.seconds})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def _session(context: Context) -> Session:
    return session_for(context.run_config, str(context.node_config.get("data-path", "")))


def _shared_data(received: ArrayRecord | None, digest: str) -> Examples:
    """Take the shared data from the message, or from where an earlier message was kept."""
    if received is not None:
        if shared_digest(received) != digest:
            raise FedShieldError("the shared data did not arrive as it was sent (wrong digest); it will be sent again")
        keep_shared(received, digest)
    kept = find_shared(digest)
    if kept is None:
        raise FedShieldError("the shared data is no longer in the cache of this machine; it will be sent again")
    return kept
