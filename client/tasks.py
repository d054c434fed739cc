"""What a client does with a message: from content to content, in whichever process."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from client.changes import changed
from client.node_config import check_node_config, check_place, client_number
from client.session import session_for
from common.config.flat import Flat
from common.errors import FedShieldError
from common.messages.protocol import (
    ARRAYS,
    BESIDE,
    CHANGES,
    CONFIG,
    COUNTED,
    DATA_PATH,
    FINE_TUNE,
    IDENTIFY,
    LIES,
    LOSS,
    METRICS,
    NUM_EXAMPLES,
    PARTITION_ID,
    SECONDS,
    SERVER_ROUND,
    SHARED,
    SHARED_DIGEST,
    TRAIN,
)
from common.messages.records import to_record, to_state
from common.messages.shared_slice import Examples, find_shared, keep_shared
from common.training.trainer import FitResult

NodeConfig = Mapping[str, Any]
_DIGEST = re.compile(r"[0-9a-f]{64}")


def identify(content: RecordDict, run_config: Flat, node_config: NodeConfig, state: RecordDict) -> RecordDict:
    """Tell which client this is, and how many images it has, once they are ready.

    Args:
        content: of the message; see ``common.messages.protocol``.
        run_config: flat, of the run.
        node_config: which client this is, and where its images are.
        state: what Flower keeps for the client.

    Raises:
        FedShieldError: a key of the node is wrong, or the images are not there or damaged.
    """
    check_node_config(node_config)
    check_place(node_config)
    client = client_number(node_config, int(run_config["federation.clients"]))
    images = session_for(run_config, _place(node_config)).identify(client)
    return RecordDict({METRICS: MetricRecord({PARTITION_ID: client, NUM_EXAMPLES: images})})


def train(content: RecordDict, run_config: Flat, node_config: NodeConfig, state: RecordDict) -> RecordDict:
    """Train the received model on this client's shard and the shared data.

    Args:
        content: of the message; see ``common.messages.protocol``.
        run_config: flat, of the run.
        node_config: which client this is, and where its images are.
        state: what Flower keeps for the client; changed if the method keeps something.

    Raises:
        FedShieldError: the shared data is neither in the message nor on this machine, the images are not there, or the
            server asks for settings that this client does not take.
    """
    order = content.config_records[CONFIG]
    shared = None
    if SHARED_DIGEST in order:
        shared = _shared_data(content.array_records.get(SHARED), str(order[SHARED_DIGEST]))
    sent = to_state(content.array_records[BESIDE]) if BESIDE in content.array_records else {}
    client = client_number(node_config)
    run_config = changed(run_config, content.config_records.get(CHANGES, {}))
    arrays, beside, result = session_for(run_config, _place(node_config)).train(
        client,
        int(order[SERVER_ROUND]),  # type: ignore[arg-type]
        content.array_records[ARRAYS],
        sent,
        shared,
        state,
        _counted(order, client),
        bool(node_config.get(LIES)),
    )
    reply = RecordDict({ARRAYS: arrays, METRICS: _metrics(result)})
    if beside:
        reply[BESIDE] = to_record(beside)
    return reply


def fine_tune(content: RecordDict, run_config: Flat, node_config: NodeConfig, state: RecordDict) -> RecordDict:
    """Let this client have a model of its own: the received one, trained further on its images.

    Args:
        content: of the message; see ``common.messages.protocol``.
        run_config: flat, of the run.
        node_config: which client this is, and where its images are.
        state: what Flower keeps for the client; changed.

    Raises:
        FedShieldError: the images are not there.
    """
    order, client = content.config_records[CONFIG], client_number(node_config)
    session, server_round = session_for(run_config, _place(node_config)), int(order[SERVER_ROUND])  # type: ignore[arg-type]
    result = session.fine_tune(client, server_round, content.array_records[ARRAYS], state, _counted(order, client))
    return RecordDict({METRICS: _metrics(result)})


def _metrics(result: FitResult) -> MetricRecord:
    return MetricRecord({NUM_EXAMPLES: result.examples, LOSS: result.loss, SECONDS: result.seconds})


def _counted(order: ConfigRecord, client: int) -> int:
    """Return the round of a client's last turn that the server took; 0 for none, or where the method keeps nothing."""
    told = order.get(COUNTED)
    return int(told[client]) if isinstance(told, list) and client < len(told) else 0


def _place(node_config: NodeConfig) -> str:
    return str(node_config.get(DATA_PATH, ""))


def _shared_data(received: ArrayRecord | None, digest: str) -> Examples:
    """Take the shared data from the message, or from where an earlier message was kept."""
    if not _DIGEST.fullmatch(digest):  # it becomes the name of a folder
        raise FedShieldError("the server's name for the shared data is not a SHA-256")
    if received is not None:
        keep_shared(received, digest)
    kept = find_shared(digest)
    if kept is None:
        raise FedShieldError("the shared data is no longer in the cache of this machine; it will be sent again")
    return kept


Task = Callable[[RecordDict, Flat, NodeConfig, RecordDict], RecordDict]
TASKS: dict[str, Task] = {IDENTIFY: identify, TRAIN: train, FINE_TUNE: fine_tune}
