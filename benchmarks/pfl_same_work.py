"""The CIFAR-10 benchmark of apple/pfl-research, on FedShield and on pfl itself, side by side.

One thousand clients of 50 images, 50 of them in a round, one epoch of plain SGD in batches of 10, pfl's two-convolution
network, no attack, no evaluation in a timed round. Both sides read the same uint8 images from one file and run in one
process of their own on the CPU. pfl comes from PyPI into ``runs/pfl-venv``, with the torch and numpy of this
environment.
"""

import argparse
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.harness import Figures, alternate, median, median_ratio, report
from common.config.flat import default_config, merge
from common.config.schema import RunConfig, parse_config
from common.data.datasets import DATASETS, Dataset, Source, Splits, balanced_subset, load_data
from common.data.shapes10 import CLASSES, generate

ROOT = Path(__file__).resolve().parents[1]
PFL = "0.6.0"
PFL_PYTHON = ROOT / "runs" / "pfl-venv" / "bin" / "python"
FOLDER = ROOT / "data" / "cifar10-jpeg"
DATA = ROOT / "runs" / f"pfl-same-work-{'cifar10' if FOLDER.is_dir() else 'shapes10'}.npz"
IMAGES, TEST_IMAGES = 50_000, 1_000
COHORT = 50


def make_environment() -> None:
    """Install pfl with the torch and numpy of this environment, unless it is there."""
    wanted = [f"pfl=={PFL}", *(f"{name}=={version(name)}" for name in ("torch", "numpy"))]
    uv = shutil.which("uv") or "uv"
    if not PFL_PYTHON.exists():
        subprocess.run([uv, "venv", "--python", "3.11", str(PFL_PYTHON.parents[1])], check=True)  # noqa: S603
    subprocess.run([uv, "pip", "install", "-q", "--python", str(PFL_PYTHON), *wanted], check=True)  # noqa: S603


def make_data() -> None:
    """Write the images that both sides read, unless they are there: CIFAR-10 as an image folder, or generated ones."""
    if DATA.exists():
        return
    if FOLDER.is_dir():
        splits = load_data("folder", str(FOLDER), 32)
        rows = balanced_subset(splits.test.labels, TEST_IMAGES, 0, "benchmark")
        train, test = splits.train, splits.test.take(rows)
    else:
        train, test = (Dataset(*generate(*part), CLASSES) for part in ((True, IMAGES), (False, TEST_IMAGES)))
    arrays: dict[str, Any] = {"train-images": train.images, "train-labels": train.labels}
    arrays |= {"test-images": test.images, "test-labels": test.labels}
    DATA.parent.mkdir(exist_ok=True)
    partial = DATA.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(DATA)


def read_data(root: Path, image_size: int) -> Source:
    """Replace the dataset ``folder``: the file at ``root``, taken into FedShield's cache at its first use."""

    def decode() -> Splits:
        with np.load(root) as file:
            classes = tuple(map(str, range(10)))
            train, test = (
                Dataset(file[f"{part}-images"], file[f"{part}-labels"], classes) for part in ("train", "test")
            )
            return Splits(train, test)

    stat = root.stat()
    return Source(f"pfl-same-work-{stat.st_size}-{stat.st_mtime_ns}", decode)


def our_config(options: argparse.Namespace, results: str) -> RunConfig:
    """Return FedShield's configuration of the same work."""
    changes = {
        "threads": options.threads,
        "data.name": "folder",
        "data.root": str(DATA),
        "data.max-examples": 0,
        "federation.clients": options.clients,
        "federation.rounds": options.rounds,
        "federation.fraction": COHORT / options.clients,
        "partition.scheme": "iid",
        "sharing.fraction": 0.0,
        "sharing.pool-fraction": 0.0,
        "model.name": "cnn2",
        "model.width": 32,
        "attack.name": "none",
        "train.batch-size": 10,
        "train.learning-rate": 0.1,
        "train.momentum": 0.0,
        "train.weight-decay": 0.0,
        "train.label-smoothing": 0.0,
        "train.augment": False,
        # The last round is always evaluated; one image is the least.
        "evaluate.every": options.rounds,
        "evaluate.examples": 1,
        "evaluate.attacks": "",
        "evaluate.final-attacks": "",
        "evaluate.final-examples": TEST_IMAGES,
        "results.dir": results,
    }
    return parse_config(merge(default_config(), changes, "benchmark"))


def run_ours(options: argparse.Namespace) -> None:
    """Train through FedShield's own engine, and print one JSON line."""
    import flwr.app  # noqa: F401  # which sets the level of its logger

    from server.app import run_federation
    from server.evaluation import evaluate_run
    from server.run_directory.reader import read_metrics
    from simulations.engine.executor import InProcess
    from simulations.engine.local_grid import LocalGrid, Reply

    logging.getLogger("flwr").setLevel(logging.WARNING)
    DATASETS["folder"] = read_data
    first: list[float] = []
    cpu: list[float] = []

    def on_forward(module: nn.Module, inputs: object) -> None:
        first.append(time.time())
        hook.remove()

    def on_reply(reply: Reply) -> None:
        if reply.server_round and reply.answered == reply.sent:
            cpu.append(time.process_time())

    hook = nn.modules.module.register_module_forward_pre_hook(on_forward)
    with tempfile.TemporaryDirectory() as results:
        config = our_config(options, results)
        path = run_federation(LocalGrid(config, InProcess(), on_reply), config)
        rounds = [record["seconds"] for record in read_metrics(path)]
        evaluation = evaluate_run(path, {}).evaluation
    figures = {
        "rounds": rounds[1:],
        "cpu": np.diff(cpu).tolist(),
        "first-step": first[0] - options.started,
        "accuracy": evaluation.natural.value,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def measure(command: list[str], options: argparse.Namespace) -> Figures:
    """Run one side in a process of its own; return its figures: of the timed rounds, the medians."""
    values = {"rounds": options.rounds, "clients": options.clients, "threads": options.threads, "started": time.time()}
    arguments = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    # Always with bytecode files, or the time to the first step would be that of Python's compiler.
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(ROOT / "runs" / "pycache"),
        "FEDSHIELD_CACHE": str(ROOT / "runs" / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(  # noqa: S603
        [*command, *arguments], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: statistics.median(found[name]) for name in ("rounds", "cpu")} | {
        name: found[name] for name in ("first-step", "accuracy")
    }


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20, help="of each repeat; the first one is not timed")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch, on both sides")
    parser.add_argument("--side", choices=["ours"], help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, default=time.time(), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure both sides in turn and report."""
    options = read_options()
    if options.side:
        run_ours(options)
        return
    make_environment()
    make_data()
    ours = [sys.executable, "-m", "benchmarks.pfl_same_work", "--side", "ours"]
    theirs = [str(PFL_PYTHON), "benchmarks/pfl_side.py", "--data", str(DATA), "--cohort", str(COHORT)]
    names = {"FedShield": ours, f"pfl {PFL}": theirs}
    runs = alternate(
        {name: lambda command=command: measure(command, options) for name, command in names.items()},  # type: ignore[misc]
        options.repeats,
    )
    base = runs["FedShield"]
    report(
        "pfl_same_work",
        ["side", "s/round", "× ours", "CPU s/round", "CPU × ours", "s to first step", "accuracy"],
        [
            [
                name,
                median(found, "rounds"),
                median_ratio(found, base, "rounds"),
                median(found, "cpu"),
                median_ratio(found, base, "cpu"),
                median(found, "first-step"),
                median(found, "accuracy"),
            ]
            for name, found in runs.items()
        ],
        data=DATA.name,
        images=IMAGES,
        test_images=TEST_IMAGES,
        cohort=COHORT,
        **{name: getattr(options, name) for name in ("repeats", "rounds", "clients", "threads")},
        device="cpu",
        torch=torch.__version__,
        runs=runs,
    )


if __name__ == "__main__":
    main()
