"""FedShield's side of ``same_work``: its own engine, in this process or in several."""

import argparse
import logging
import tempfile
from pathlib import Path

import flwr.app  # noqa: F401  # which sets the level of its logger
import numpy as np

from benchmarks.sides import work
from common.config.flat import default_config, merge
from common.config.schema import RunConfig, parse_config
from common.data.datasets import DATASETS, Dataset, Source, Splits
from server.app import run_federation
from server.evaluation import evaluate_run
from simulations.engine.executor import Executor, InProcess
from simulations.engine.local_grid import LocalGrid, Reply
from simulations.engine.process_executor import Processes


def read_data(root: Path, image_size: int, resize: str) -> Source:
    """Stand in for the dataset ``folder``: the file at ``root``, taken into FedShield's cache at its first use."""

    def decode() -> Splits:
        with np.load(root) as file:
            classes = tuple(map(str, range(work.CLASSES)))
            train, test = (
                Dataset(file[f"{part}-images"], file[f"{part}-labels"], classes) for part in ("train", "test")
            )
            return Splits(train, test)

    stat = root.stat()
    return Source(f"same-work-{stat.st_size}-{stat.st_mtime_ns}", decode)


DATASETS["folder"] = read_data  # in each process that imports this module


def configuration(options: argparse.Namespace, results: str) -> RunConfig:
    """Return FedShield's configuration of the same work."""
    changes = {
        "threads": options.threads,
        "data.name": "folder",
        "data.root": options.data,
        "data.max-examples": 0,
        "federation.clients": options.clients,
        "federation.rounds": options.rounds,
        "federation.fraction": options.cohort / options.clients,
        "partition.scheme": "iid",
        "sharing.fraction": 0.0,
        "sharing.pool-fraction": 0.0,
        "model.name": "cnn2",
        "model.width": 32,
        "attack.name": "none",
        "train.batch-size": work.BATCH,
        "train.learning-rate": work.LEARNING_RATE,
        "train.momentum": 0.0,
        "train.weight-decay": 0.0,
        "train.label-smoothing": 0.0,
        "train.augment": False,
        # The last round is always evaluated; one image is the least.
        "evaluate.every": options.rounds,
        "evaluate.examples": 1,
        "evaluate.attacks": "",
        "evaluate.final-attacks": "",
        "evaluate.final-examples": options.test_images,
        "results.dir": results,
    }
    return parse_config(merge(default_config(), changes, "benchmark"))


def main() -> None:
    """Train through FedShield's own engine, and print one JSON line."""
    options = work.read_options()
    with np.load(options.data) as file:
        options.test_images = len(file["test-labels"])
    logging.getLogger("flwr").setLevel(logging.WARNING)
    Processes.worker = "benchmarks.sides.fedshield_worker"
    clock = work.Clock()

    def on_reply(reply: Reply) -> None:
        if reply.server_round and reply.answered == reply.sent:
            clock.tick()

    with tempfile.TemporaryDirectory() as results:
        config = configuration(options, results)
        executor: Executor = InProcess() if options.workers == 1 else Processes(config, options.workers)
        try:
            path = run_federation(LocalGrid(config, executor, on_reply), config)
        finally:
            executor.close()
        work.finish(clock, evaluate_run(path, {}).evaluation.natural.value)


if __name__ == "__main__":
    main()
