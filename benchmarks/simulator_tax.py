"""What a simulator adds to the training: FedShield's engines and stock Flower over a bare loop with the same work.

    python -m benchmarks.simulator_tax [--repeats 5] [--parts rounds,work,memory]

ResNet-18 (11.2 M weights), ten clients, no evaluation. ``rounds``: clients that do nothing; seconds from the command to
the first client step and to the end of the first round, and seconds of a later round. ``work``: one batch of PGD
adversarial training at each client, all sides a round in turn. ``memory``: of all processes, after 1 and 50 rounds
without work. FedShield runs by its own command on each engine, and by ``flwr run``.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.flower import events, time_stock
from benchmarks.harness import Figures, alternate, median, report, resident_bytes
from common.data.shapes10 import generate
from tests.helpers.flower import Flower
from tests.helpers.processes import family

ROOT = Path(__file__).resolve().parents[1]
CLIENTS, BATCH, STEPS = 10, 32, 3
ENGINES = {"inprocess": "in-process", "processes": "processes, 2 workers", "ray": "Ray, 2 workers"}

OURS: dict[str, object] = {
    "model.name": "resnet18",
    "model.width": 64,
    "partition.scheme": "iid",
    "sharing.pool-fraction": 0.0,
    "sharing.fraction": 0.0,
    "data.max-examples": CLIENTS * BATCH,
    "attack.steps": STEPS,
    "attack.step-255": 2.0,
    "train.batch-size": BATCH,
    "train.momentum": 0.9,
    "train.augment": False,
    "train.label-smoothing": 0.0,
    "evaluate.every": 1000,
    "evaluate.examples": 10,
    "evaluate.attacks": "",
    "evaluate.final-attacks": "",
}


def bytecode() -> dict[str, str]:
    """Return settings that keep bytecode, or start times would be those of Python's compiler."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(ROOT / "runs" / "pycache")}


def settings(engine: str, rounds: int, epochs: int, results: Path) -> dict[str, object]:
    """Return FedShield's configuration; two workers get one core each."""
    return {
        **OURS,
        "threads": 0 if engine in ("bare", "inprocess") else 1,
        "federation.rounds": rounds,
        "train.local-epochs": epochs,
        "results.dir": str(results),
        "results.name": "run",
    }


def start_ours(engine: str, folder: Path, rounds: int, epochs: int, turn: str = "") -> subprocess.Popen[bytes]:
    """Start FedShield, or the bare loop, in a process of its own; its log is ``folder/times.jsonl``."""
    values = [f"{key}={json.dumps(value)}" for key, value in settings(engine, rounds, epochs, folder).items()]
    command = [sys.executable, "-m", "benchmarks.engine_side", "--log", str(folder / "times.jsonl"), "--turn", turn]
    command, environment = [*command, engine, *values], {**os.environ, **bytecode()}
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603


def time_ours(engine: str, rounds: int) -> Figures:
    """Run FedShield without work; return the figures that ``time_stock`` returns."""
    with tempfile.TemporaryDirectory() as name:
        folder, started = Path(name), time.time()
        process = start_ours(engine, folder, rounds, 0)
        if process.wait():
            raise RuntimeError((folder / "output").read_text()[-3000:])
        log = events(folder / "times.jsonl")
    first = min(line["time"] for line in log if line["event"] == "first-step")
    ends = [line["time"] for line in log if line["event"] == "round"]  # of rounds 0 to R - 1
    later = [end - begin for begin, end in itertools.pairwise(ends[1:])]
    return {
        "to_first_step": first - started,
        "to_first_round": ends[1] - started,
        "later_round": statistics.median(later),
    }


def time_ours_by_flwr(rounds: int) -> Figures:
    """Run FedShield without work by ``flwr run``, with a SuperLink of its own."""
    with tempfile.TemporaryDirectory() as name, Flower() as flower:
        flower.environment |= bytecode()
        app = Path(name, "app")  # like the stock app's folder without environment and runs: Flower reads every file
        shutil.copytree(ROOT, app, ignore=lambda folder, names: {".git", ".venv", "runs"} & {*names})
        started = flower.run(app, CLIENTS, 1, settings("flwr run", rounds, 0, Path(name)))
        run = Path(name) / "run"
        lines = [json.loads(line)["seconds"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        ready = (run / "environment.json").stat().st_mtime  # every client has answered by then
    return {
        "to_first_step": ready - started,
        "to_first_round": ready + lines[0] - started,
        "later_round": statistics.median(lines[1:-1]),  # the last one is evaluated
    }


def time_stock_without_work(data: Path, rounds: int) -> Figures:
    """Run stock Flower without work, with a SuperLink of its own."""
    with tempfile.TemporaryDirectory() as name, Flower() as flower:
        flower.environment |= bytecode()
        found = time_stock(flower, Path(name), data, rounds, memory=False, local_epochs=0, examples=BATCH)
    return {
        "to_first_step": found["to_first_step"],
        "to_first_round": found["to_server"] + found["first_round"],
        "later_round": found["later_round"],
    }


def rounds_without_work(data: Path, repeats: int) -> None:
    """Compare start and rounds of clients that do nothing."""
    sides = {
        "stock Flower": lambda: time_stock_without_work(data, 5),
        "FedShield, in-process": lambda: time_ours("inprocess", 8),
        "FedShield, processes, 2 workers": lambda: time_ours("processes", 8),
        "FedShield, Ray, 2 workers": lambda: time_ours("ray", 8),
        "FedShield by flwr run": lambda: time_ours_by_flwr(6),
    }
    found = alternate(sides, repeats, warmups=0)
    figures = ("to_first_step", "to_first_round", "later_round")
    stock = {figure: median(found["stock Flower"], figure) for figure in figures}
    rows = [
        [name, *itertools.chain(*((median(runs, figure), median(runs, figure) / stock[figure]) for figure in figures))]
        for name, runs in found.items()
    ]
    header = ["to first client step, s", "to end of round 1, s", "later round, s"]
    columns = ["side", *itertools.chain(*((name, "of stock's" + " " * number) for number, name in enumerate(header)))]
    report("simulator_tax_rounds", columns, rows, repeats=repeats, runs=found)


Control = tuple[Callable[[], bool], Callable[[], None]]
"""Tells whether a side is alive; ends it."""

Start = Callable[[Path, str], Control]
"""(folder for its log, file that says which round may run) -> a started side."""


def control(process: subprocess.Popen[bytes]) -> Control:
    """Return the control of a process, which ends it as Ctrl-C would."""

    def end() -> None:
        process.send_signal(signal.SIGINT)
        process.wait()

    return lambda: process.poll() is None, end


def in_thread(run: Callable[[], Any]) -> Control:
    """Start a run of the stock app and return its control; it ends by itself, with its last round."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread.is_alive, thread.join


@contextmanager
def gated(name: str, start: Start) -> Iterator[Callable[[int], float]]:
    """Start a side that waits before each round; the yielded function lets it run one and returns its seconds."""
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        turn = folder / "turn"
        turn.write_text("0")
        alive, end = start(folder, str(turn))

        def run_round(number: int) -> float:
            log = next(iter(folder.glob("*.jsonl")), folder / "times.jsonl")
            turn.with_suffix(".new").write_text(str(number))
            turn.with_suffix(".new").replace(turn)
            while True:
                lines = events(log) if log.exists() else []
                times = {(line["event"], line["round"]): line["time"] for line in lines if "round" in line}
                if ("round", number) in times and ("turn", number) in times:
                    return float(times["round", number] - times["turn", number])
                if not alive():
                    raise RuntimeError(f"{name} has ended before round {number}; see {folder}/output")
                time.sleep(0.2)
                log = next(iter(folder.glob("*.jsonl")), log)

        try:
            yield run_round
        finally:
            turn.write_text("1000")
            end()


def rounds_with_work(data: Path, repeats: int) -> None:
    """Compare rounds of ten clients, each with one batch, all sides in turn; all of them keep running."""
    total = repeats + 1

    def start_engine(engine: str) -> Start:
        return lambda folder, turn: control(start_ours(engine, folder, total + 1, 1, turn))

    def start_stock(folder: Path, turn: str) -> Control:
        flower = stack.enter_context(Flower())
        work = {"examples": BATCH, "batch_size": BATCH, "attack_steps": STEPS, "local_epochs": 1}
        return in_thread(lambda: time_stock(flower, folder, data, total, memory=False, turn_path=turn, **work))

    starts = {"bare loop": start_engine("bare"), "stock Flower": start_stock}
    starts |= {f"FedShield, {name}": start_engine(engine) for engine, name in ENGINES.items()}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(gated(name, start)) for name, start in starts.items()}
        found: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(1, total + 1):
            for name, run_round in sides.items():
                seconds = run_round(number)
                sys.stderr.write(f"  round {number}  {name}  {seconds:.2f} s\n")
                if number > 1:
                    found[name].append(seconds)
    base = found["bare loop"]
    rows = [
        [name, statistics.median(runs), statistics.median(run / other for run, other in zip(runs, base, strict=True))]
        for name, runs in found.items()
    ]
    work = f"{CLIENTS} clients, one batch of {BATCH} images each, PGD-{STEPS} adversarial training, float32"
    report("simulator_tax_work", ["side", "round, s", "× bare loop"], rows, work=work, repeats=repeats, runs=found)


def memory(data: Path) -> None:
    """Measure all processes after 1, 2 and 50 rounds without work, once for each side."""
    rows: list[list[Any]] = []
    for engine in ENGINES:
        processes: list[int] = []

        def start_engine(folder: Path, turn: str, engine: str = engine, processes: Any = processes) -> Control:
            process = start_ours(engine, folder, 52, 0, turn)
            processes.append(process.pid)
            return control(process)

        with gated(engine, start_engine) as run_round:
            rows.append(
                [f"FedShield, {engine}", *sample(run_round, partial(lambda found: family(set(found)), processes))]
            )
    with Flower() as flower:

        def start_stock(folder: Path, turn: str) -> Control:
            work = {"local_epochs": 0, "examples": BATCH}
            return in_thread(lambda: time_stock(flower, folder, data, 51, memory=False, turn_path=turn, **work))

        with gated("stock", start_stock) as run_round:
            rows.append(["stock Flower", *sample(run_round, flower.pids)])
    report("simulator_tax_memory", ["side", "GB after 1", "after 2", "after 50 rounds"], rows)


def sample(run_round: Callable[[int], float], pids: Callable[[], list[int]]) -> list[float]:
    """Run 50 rounds; return gigabytes (proportional set size) after 1, 2 and 50 of them."""
    found = []
    for number in range(1, 51):
        run_round(number)
        if number in (1, 2, 50):
            time.sleep(1)  # the checkpoint is written during the next round
            found.append(resident_bytes(pids()) / 1e9)
    return found


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", default="rounds,work,memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.npz"
        images, labels = generate(True, CLIENTS * BATCH)
        np.savez(data, images=images, labels=labels)
        parts = options.parts.split(",")
        if "rounds" in parts:
            rounds_without_work(data, options.repeats)
        if "work" in parts:
            rounds_with_work(data, options.repeats)
        if "memory" in parts:
            memory(data)


if __name__ == "__main__":
    main()
