"""All that a GPU should show, in one command: is the fast path right, how fast is a step, the paper's federation.

    python -m benchmarks.gpu [--minutes 10] [--data FOLDER] [--results DIR] [more options of fedshield run]

The federation is the preset ``cifar10-noniid-share40`` with as many of its 100 rounds as fit the minutes, after a first
run of two rounds that measures one. A part that fails is reported; the others still run.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

TESTS = ("pytest", "-q", "-n", "0", "-k", "cuda", "tests/unit/common/test_fast_path.py")
SPEED = ("benchmarks.adversarial_step", "--repeats", "3", "--precisions", "bfloat16")
_SPARE_SECONDS = 60  # to read the images, record, evaluate and draw
_FEWEST_ROUNDS, _MOST_ROUNDS = 4, 100

say = Console(soft_wrap=True, markup=False, highlight=False).print


def call(*module: str) -> bool:
    """Run a module of Python's, with what it prints; tell whether it succeeded."""
    say("\n$ python -m", *module)
    succeeded = subprocess.call([sys.executable, "-m", *module]) == 0  # noqa: S603
    if not succeeded:
        say("FAILED: python -m", *module)
    return succeeded


def federation(name: str, rounds: int, options: argparse.Namespace, rest: Sequence[str]) -> bool:
    """Run the paper's federation for some rounds, the rate divided by ten after a half and three quarters of them."""
    settings = {
        "federation.rounds": str(rounds),
        "evaluate.every": str(min(10, rounds)),
        "evaluate.final-attacks": "fgsm,pgd-20",  # AutoAttack would take longer than the training
        "train.milestones": f'"{rounds // 2},{rounds // 2 + max(1, rounds // 4)}"',
    }
    if options.data:
        settings |= {"data.name": "folder", "data.root": str(options.data)}
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run = ("run", options.preset, "--engine", "inprocess", "--results", str(options.results), "--name", name)
    return call("simulations.cli", *run, *changes, *rest)


def round_seconds(run: Path) -> float:
    """Return how long the shortest round of a run took."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return min(float(line["seconds"]) for line in lines)


def main() -> None:
    """Do all of it, and exit with 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 images; without it, CIFAR-10 is downloaded")
    parser.add_argument("--results", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--preset", default="cifar10-noniid-share40")
    options, rest = parser.parse_known_args()
    deadline = time.monotonic() + 60 * options.minutes
    parts = [call(*TESTS), call(*SPEED), federation("probe", 2, options, rest)]
    if parts[-1]:
        left = deadline - time.monotonic() - _SPARE_SECONDS
        rounds = int(left / (1.05 * round_seconds(options.results / "probe")))
        say(f"{left:.0f} s are left: {max(0, rounds)} rounds")
        if rounds < _FEWEST_ROUNDS:
            say(f"FAILED: no federation: {_FEWEST_ROUNDS} rounds are the least; give it more --minutes")
        parts.append(rounds >= _FEWEST_ROUNDS and federation("federation", min(_MOST_ROUNDS, rounds), options, rest))
    sys.exit(0 if all(parts) else 1)


if __name__ == "__main__":
    main()
