"""The keys of all messages between server and client, and the value of each.

``identify``, a query that is sent to every node:

    server -> client   nothing
    client -> server   METRICS  PARTITION_ID int: which client this is
                                NUM_EXAMPLES int: its own training images

``train``, once a round to each client that takes part:

    server -> client   ARRAYS   the global model: an array for each entry of its state dict
                       CONFIG   SERVER_ROUND int, from 1; SHARED_DIGEST str: SHA-256 of shared data, if there is any;
                                COUNTED ints: each client's last round whose reply was taken, if the method keeps
                       BESIDE   what the method sends beside the model, if anything; see ``common.methods``
                       CHANGES  keys of the configuration that have another value in this round; see ``client.changes``
                       SHARED   IMAGES uint8 [S,3,H,W], LABELS int64 [S]; only to a client that does not hold them yet
    client -> server   ARRAYS   the trained model, of the same names, shapes and types
                       BESIDE   an array for each weight, if the method asks for it
                       METRICS  NUM_EXAMPLES int: images trained on, the shared ones too
                                LOSS float: mean training loss of the last epoch
                                SECONDS float: wall time of the training
                       ENGINE   FIRST_FAILURE str; from the simulation engine, where a client ran a second time

``fine-tune``, once after the last round to every client, if ``method.fine-tune-epochs`` is not 0; as Flower's
``evaluate``:

    server -> client   ARRAYS   the global model
                       CONFIG   SERVER_ROUND, COUNTED as above
    client -> server   METRICS  NUM_EXAMPLES, LOSS, SECONDS as above; the model stays with the client

A client's own node configuration, which Flower calls ``node_config``: PARTITION_ID, NUM_PARTITIONS, DATA_PATH.
"""

from typing import Final

IDENTIFY: Final = "identify"
TRAIN: Final = "train"
FINE_TUNE: Final = "fine-tune"

ARRAYS: Final = "arrays"
CONFIG: Final = "config"
METRICS: Final = "metrics"
SHARED: Final = "shared"
BESIDE: Final = "beside"
CHANGES: Final = "changes"
KEPT: Final = "kept"
ENGINE: Final = "engine"

SERVER_ROUND: Final = "server-round"
COUNTED: Final = "counted"
SHARED_DIGEST: Final = "shared-digest"
IMAGES: Final = "images"
LABELS: Final = "labels"

NUM_EXAMPLES: Final = "num-examples"
LOSS: Final = "loss"
SECONDS: Final = "seconds"
FIRST_FAILURE: Final = "first-failure"

PARTITION_ID: Final = "partition-id"
NUM_PARTITIONS: Final = "num-partitions"
DATA_PATH: Final = "data-path"
LIES: Final = "lies"  # that this client is to lie; only the engine of a simulation says so, a node that does is refused
