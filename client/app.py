"""The ClientApp: a message with the global model comes in, a message with the locally trained one goes out."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from common.config import RunConfig, parse_config
from common.errors import FedShieldError
from common.losses import LOSSES, LossContext
from common.records import find_shared, keep_shared, shared_digest, to_record, to_state
from common.seeding import seed_for
from common.setup import make_model, prepare_data, prepare_torch, threat_of
from common.training import Schedule, fit


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
    """Tell which client runs on this node, once its data is ready."""
    config = parse_config(context.run_config)
    prepare_torch(config.threads)
    prepare_data(config)
    metrics = MetricRecord({"partition-id": int(context.node_config["partition-id"])})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model on this client's shard and the shared data."""
    config = parse_config(context.run_config)
    device = prepare_torch(config.threads)
    client = int(context.node_config["partition-id"])
    order = message.content.config_records["config"]
    server_round = int(order["server-round"])  # type: ignore[arg-type]
    images, labels, classes = _local_data(config, client, message.content, order)

    model = make_model(config, classes)
    model.load_state_dict(to_state(message.content.array_records["arrays"]))
    model.to(device)
    settings = config.train
    context_of_loss = LossContext(config.attack.name, threat_of(config), settings.label_smoothing, settings.noise_std)
    schedule = Schedule(
        epochs=settings.local_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.rate_in(server_round),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        augment=settings.augment,
        precision=settings.precision,
    )
    seed = seed_for(config.seed, "train", server_round, client)
    result = fit(model, LOSSES[config.loss.name](model, context_of_loss), images, labels, schedule, seed)
    metrics = MetricRecord({"num-examples": result.examples, "loss": result.loss, "seconds": result.seconds})
    return Message(RecordDict({"arrays": to_record(model.state_dict()), "metrics": metrics}), reply_to=message)


def _local_data(
    config: RunConfig, client: int, content: RecordDict, order: ConfigRecord
) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
    """Return the client's own images and labels, followed by the shared ones, and the number of classes."""
    splits, division = prepare_data(config)
    own = splits.train.take(division.shards[client])
    images, labels = own.images, own.labels
    if "shared-digest" in order:
        shared = _shared_data(content.array_records.get("shared"), str(order["shared-digest"]))
        images, labels = np.concatenate([images, shared[0]]), np.concatenate([labels, shared[1]])
    return images, labels, len(own.classes)


def _shared_data(received: ArrayRecord | None, digest: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Take the shared data from the message, or from where an earlier message was kept."""
    if received is not None:
        if shared_digest(received) != digest:
            raise FedShieldError("the shared data did not arrive as it was sent (wrong digest); it will be sent again")
        keep_shared(received)
    kept = find_shared(digest)
    if kept is None:
        raise FedShieldError("the shared data is no longer in the cache of this machine; it will be sent again")
    return kept
