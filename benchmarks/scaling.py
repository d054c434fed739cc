"""How a round's time grows with the clients, with the model and with the workers.

    python -m benchmarks.scaling [--repeats 5]

``clients``: 10, 100 and 1000 of them, at most 50 a round, in-process, a tiny network and one step each.
``model``: ten clients that do nothing, in-process: what carrying the weights costs.
``workers``: ten clients with PGD-3 adversarial training, Ray workers with one thread each.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Figures, alternate, median, report
from common.config.flat import default_config, merge
from common.config.schema import RunConfig, parse_config
from common.factory import make_model
from common.machine import available_cores
from server.app import run_federation
from server.run_directory.reader import read_metrics
from simulations.engine.executor import Executor, InProcess
from simulations.engine.local_grid import LocalGrid

ROUNDS = 4
COMMON = {
    "federation.rounds": ROUNDS,
    "sharing.pool-fraction": 0.0,
    "sharing.fraction": 0.0,
    "partition.scheme": "iid",
    "data.max-examples": 0,
    "evaluate.every": 1000,
    "evaluate.examples": 10,
    "evaluate.attacks": "",
    "evaluate.final-attacks": "",
    "threads": 1,
}


def side(make: Callable[[RunConfig], Executor], **changes: object) -> Callable[[], Figures]:
    """Return a side that runs one federation: its time to the first round, and the median of the others."""

    def run() -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            values = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
            flat = merge(default_config(), {**COMMON, **values, "results.dir": folder}, "benchmark")  # type: ignore[dict-item]
            config = parse_config(flat)
            executor = make(config)
            try:
                started = time.perf_counter()
                path = run_federation(LocalGrid(config, executor), config)
                whole = time.perf_counter() - started
                rounds = [line["seconds"] for line in read_metrics(Path(path))]
            finally:
                executor.close()
        # The last round is evaluated, on ten images.
        return {"round": statistics.median(rounds[1:-1]), "start": whole - sum(rounds)}

    return run


def in_process(config: RunConfig) -> Executor:
    """Return the default engine."""
    return InProcess()


def on_ray(workers: int) -> Callable[[RunConfig], Executor]:
    """Return the Ray engine with this number of workers."""

    def make(config: RunConfig) -> Executor:
        from simulations.engine.ray_executor import RayActors

        return RayActors(config, workers)

    return make


def clients(repeats: int) -> None:
    """Measure 10, 100 and 1000 clients."""
    cohorts = {10: 10, 100: 50, 1000: 50}
    sides = {
        f"{count} clients, {cohort} a round": side(
            in_process,
            federation__clients=count,
            federation__fraction=cohort / count,
            data__max_examples=4 * count,
            attack__steps=1,
        )
        for count, cohort in cohorts.items()
    }
    found = alternate(sides, repeats)
    rows = [
        [name, median(runs, "start"), median(runs, "round"), 1000 * median(runs, "round") / cohort]
        for (name, runs), cohort in zip(found.items(), cohorts.values(), strict=True)
    ]
    report("scaling_clients", ["federation", "start, s", "round, s", "ms a client"], rows, runs=found)


def models(repeats: int) -> None:
    """Measure rounds without work, for growing models."""
    networks = (("cnn", 8), ("resnet18", 16), ("resnet18", 32), ("resnet18", 64), ("resnet18", 128))
    sides, sizes = {}, []
    for name, width in networks:
        sides[f"{name}, width {width}"] = side(
            in_process, model__name=name, model__width=width, train__local_epochs=0, data__max_examples=100, threads=0
        )
        flat = merge(default_config(), {"model.name": name, "model.width": width}, "benchmark")
        sizes.append(sum(weight.numel() for weight in make_model(parse_config(flat), 10).parameters()) / 1e6)
    found = alternate(sides, repeats)
    rows = [[name, size, median(runs, "round")] for (name, runs), size in zip(found.items(), sizes, strict=True)]
    report("scaling_models", ["model", "million weights", "round without work, s"], rows, runs=found)


def workers(repeats: int) -> None:
    """Measure one to as many workers as there are cores."""
    work = {"model__name": "cnn", "model__width": 16, "data__max_examples": 2000, "attack__steps": 3}
    counts = [2**power for power in range(available_cores().bit_length()) if 2**power <= available_cores()]
    found = alternate({f"{count}": side(on_ray(count), **work) for count in counts}, repeats, warmups=0)
    base = median(found["1"], "round")
    rows = [[name, median(runs, "round"), base / median(runs, "round")] for name, runs in found.items()]
    report("scaling_workers", ["Ray workers, one thread each", "round, s", "speed-up"], rows, runs=found)


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for name in ("flwr", "fedshield"):
        logging.getLogger(name).setLevel(logging.ERROR)
    clients(repeats)
    models(repeats)
    workers(repeats)


if __name__ == "__main__":
    main()
