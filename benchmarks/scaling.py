"""How a round's time grows with the clients, with the model and with the workers.

    python -m benchmarks.scaling [--repeats 5] [--parts clients,models,workers]

``clients``: 10, 100 and 1000 of them, at most 50 a round, in-process, a tiny network and one step each.
``models``: ten clients that do nothing, in-process: what carrying the weights costs.
``workers``: ten clients with PGD-3 adversarial training, one after the other in-process and several at a time.
"""

import argparse
import contextlib
import itertools
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.harness import Figures, alternate, median, median_ratio, report
from common.config.flat import default_config, merge
from common.config.schema import RunConfig, parse_config
from common.factory import make_model
from common.machine import available_cores
from server.app import run_federation
from server.run_directory.reader import read_metrics
from simulations.engine.executor import Executor, InProcess
from simulations.engine.local_grid import LocalGrid, Reply

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
    """Return a side that runs one federation: its time to the first round, and the medians of the others.

    From a round's first reply to the next one's, ``cpu`` counts the seconds of all processes; other programs on the
    machine change them less than the time.
    """

    def run() -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            values = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
            flat = merge(default_config(), {**COMMON, **values, "results.dir": folder}, "benchmark")  # type: ignore[dict-item]
            config = parse_config(flat)
            executor = make(config)
            used: list[float] = []

            def on_reply(reply: Reply, used: list[float] = used) -> None:
                if reply.server_round and reply.answered == 1:
                    used.append(cpu_seconds())

            try:
                started = time.perf_counter()
                path = run_federation(LocalGrid(config, executor, on_reply), config)
                whole = time.perf_counter() - started
                rounds = [line["seconds"] for line in read_metrics(Path(path))]
            finally:
                executor.close()
        # The last round is evaluated, on ten images.
        cpu = statistics.median(end - begin for begin, end in itertools.pairwise(used))
        return {"round": statistics.median(rounds[1:-1]), "start": whole - sum(rounds), "cpu": cpu}

    return run


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it has started."""
    me, total = psutil.Process(), 0.0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # one that has just ended
            times = process.cpu_times()
            total += times.user + times.system
    return total


def in_process(config: RunConfig) -> Executor:
    """Return the default engine."""
    return InProcess()


def on_processes(workers: int) -> Callable[[RunConfig], Executor]:
    """Return the engine of processes with so many workers."""

    def make(config: RunConfig) -> Executor:
        from simulations.engine.process_executor import Processes

        return Processes(config, workers)

    return make


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
    """Measure clients one after the other and up to as many at a time as there are cores."""
    work = {"model__name": "cnn", "data__max_examples": 1000, "attack__steps": 3}
    counts = [2**power for power in range(1, available_cores().bit_length()) if 2**power <= available_cores()]
    ways: dict[str, tuple[Callable[[RunConfig], Executor], int]] = {
        "one, all cores, in-process": (in_process, 0),
        "one, one thread, in-process": (in_process, 1),
        **{f"{count}, one thread each, processes": (on_processes(count), 1) for count in counts},
        **{f"{count}, one thread each, Ray": (on_ray(count), 1) for count in counts},
    }
    widths = (8, 16)
    sides = {
        f"{name}, width {width}": side(make, model__width=width, threads=threads, **work)
        for name, (make, threads) in ways.items()
        for width in widths
    }
    found = alternate(sides, repeats, warmups=0)
    base = next(iter(ways))
    rows = []
    for name in ways:
        row: list[object] = [name]
        for width in widths:
            runs, first = found[f"{name}, width {width}"], found[f"{base}, width {width}"]
            row += [median(runs, "round"), 1 / median_ratio(runs, first, "round"), median(runs, "cpu")]
        rows.append(row)
    columns = [
        "clients at a time",
        *(f"cnn {width}: {what}" for width in widths for what in ("round, s", "speed-up", "CPU s")),
    ]
    report("scaling_workers", columns, rows, load=os.getloadavg(), runs=found)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", default="clients,models,workers")
    options = parser.parse_args()
    for name in ("flwr", "fedshield"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for part in options.parts.split(","):
        {"clients": clients, "models": models, "workers": workers}[part](options.repeats)


if __name__ == "__main__":
    main()
