"""The CIFAR-10 benchmark of apple/pfl-research, on FedShield and on other frameworks, one beside the other.

``sides/work.py`` says what the work is. All sides read the same uint8 images from one file, compute on the CPU, and run
in turn, each in a process of its own. The other frameworks come from PyPI into environments below ``runs/``, with the
torch and numpy of this one.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Figures, Side, alternate, median, median_ratio, report
from benchmarks.sides.work import FIRST_STEP
from common.data.datasets import Dataset, load_data
from common.data.draws import balanced_subset
from common.data.shapes10 import CLASSES, generate
from common.paths import ROOT

FOLDER = ROOT / "data" / "cifar10-jpeg"
DATA = ROOT / "runs" / f"same-work-{'cifar10' if FOLDER.is_dir() else 'shapes10'}.npz"
IMAGES, TEST_IMAGES = 50_000, 1_000
COHORT = 50


@dataclass(frozen=True)
class Rival:
    """Another framework.

    Attributes:
        name: of its side, and of its environment.
        package: as PyPI calls it.
        version: of the package.
        needs: what else its side imports.
        python: version, or path of the interpreter, that it is made for.
        workers: numbers of processes to measure.
    """

    name: str
    package: str
    version: str
    needs: tuple[str, ...] = ()
    python: str = "3.11"
    workers: tuple[int, ...] = (1,)

    def interpreter(self) -> Path:
        """Return the Python of its environment."""
        return ROOT / "runs" / f"{self.name}-venv" / "bin" / "python"


RIVALS = {
    rival.name: rival
    for rival in (
        Rival("pfl", "pfl", "0.6.0"),
        Rival("fluke", "fluke-fl", "0.8.1"),
        Rival("blazefl", "blazefl", "3.0.0", ("tqdm",), "3.14", (1, 2)),
    )
}


def make_environment(rival: Rival, python: str) -> None:
    """Install a framework beside the torch and numpy of this environment, unless it is there."""
    there, uv = rival.interpreter(), shutil.which("uv") or "uv"
    if not there.exists():
        subprocess.run([uv, "venv", "--seed", "--python", python, str(there.parents[1])], check=True)  # noqa: S603
    wanted = [*rival.needs, *(f"{name}=={version(name)}" for name in ("torch", "numpy"))]
    if python == rival.python:
        wanted.append(f"{rival.package}=={rival.version}")
    subprocess.run([uv, "pip", "install", "-q", "--python", str(there), *wanted], check=True)  # noqa: S603
    if python != rival.python:  # which the package may refuse
        command = ["-m", "pip", "install", "-q", "--no-deps", "--ignore-requires-python"]
        subprocess.run([str(there), *command, f"{rival.package}=={rival.version}"], check=True)  # noqa: S603


def make_data() -> None:
    """Write the images that all sides read, unless they are there: CIFAR-10 as an image folder, or generated ones."""
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


def measure(side: str, python: Path, workers: int, options: argparse.Namespace) -> Figures:
    """Run one side in a process of its own; return its figures: of the timed rounds, the medians."""
    values = {"data": DATA, "cohort": COHORT, "workers": workers}
    values |= {name: getattr(options, name) for name in ("rounds", "clients", "threads")}
    arguments = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "first-step")
        # Bytecode is kept whatever the environment says, or the time to the first step is that of Python's compiler.
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(ROOT / "runs" / "pycache"),
            "FEDSHIELD_CACHE": str(ROOT / "runs" / "cache"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": str(options.threads),  # also of the processes that a side starts
            FIRST_STEP: str(first),
        }
        started = time.time()
        command = [str(python), "-m", f"benchmarks.sides.{side}_side", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)  # noqa: S603
        found = json.loads(done.stdout.splitlines()[-1])
        figures = {name: statistics.median(found[name]) for name in ("rounds", "cpu")}
        return figures | {"first-step": float(first.read_text()) - started, "accuracy": found["accuracy"]}


def _processes(workers: int) -> str:
    return f", {workers} processes" if workers > 1 else ""


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rivals", nargs="+", choices=RIVALS, help="the other frameworks")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20, help="of each repeat; the first one is not timed")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch in each process")
    parser.add_argument("--blazefl-python", default="3.14", help="a path where 3.14, which it asks for, is not there")
    return parser.parse_args()


def main() -> None:
    """Measure all sides in turn and report."""
    options = read_options()
    make_data()
    sides: dict[str, Side] = {"FedShield": partial(measure, "fedshield", Path(sys.executable), 1, options)}
    for rival in map(RIVALS.__getitem__, options.rivals):
        make_environment(rival, options.blazefl_python if rival.name == "blazefl" else rival.python)
        for workers in rival.workers:
            name = f"{rival.name} {rival.version}{_processes(workers)}"
            sides[name] = partial(measure, rival.name, rival.interpreter(), workers, options)
    sides[f"FedShield{_processes(2)}"] = partial(measure, "fedshield", Path(sys.executable), 2, options)
    runs = alternate(sides, options.repeats)
    base = runs["FedShield"]
    report(
        "same_work",
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
        blazefl_python=options.blazefl_python,
        runs=runs,
    )


if __name__ == "__main__":
    main()
