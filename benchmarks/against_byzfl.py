"""FedShield's robust rules and lies beside those of byzfl, on the same updates.

    python -m benchmarks.against_byzfl

byzfl comes from PyPI into an environment below ``runs/``; it is no dependency. What is reported is the largest
difference of a value, as a share of the median length of an update. Krum and MultiKrum are Flower's here: they compare
each update with its n − f − 2 nearest, byzfl with one more.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from benchmarks.harness import report
from common.messages.records import LiveArray, record_of
from common.paths import ROOT
from server.aggregation.robust import RobustMean
from server.aggregation.shares import PRE
from simulations.engine.lies import ATTACKS

VERSION = "0.0.11"
ROUNDS, CLIENTS, VALUES, MALICIOUS, RADIUS = 20, 11, 2000, 2, 30.0
Values = NDArray[np.float64]


def make_updates() -> Values:
    """Return updates [rounds,n,D]: clients that differ, of which some lie in ways that change with the round."""
    rng = np.random.default_rng(1)
    drift = rng.normal(size=(ROUNDS, 1, VALUES)) + 0.5 * rng.normal(size=(1, CLIENTS, VALUES))
    updates = drift + rng.normal(size=(ROUNDS, CLIENTS, VALUES))
    mean = updates[:, MALICIOUS:].mean(axis=1, keepdims=True)
    lies = (-mean, 10 * mean, 0.1 * mean, mean + 1)
    for number in range(ROUNDS):
        updates[number, :MALICIOUS] = lies[number % len(lies)][number]
    return updates.astype(np.float32).astype(np.float64)


def theirs(updates: Values) -> dict[str, Values]:
    """Return what byzfl makes of the updates, in a process of its own."""
    python, uv = ROOT / "runs" / "byzfl-venv" / "bin" / "python", shutil.which("uv") or "uv"
    if not python.exists():
        subprocess.run([uv, "venv", "--python", "3.11", str(python.parents[1])], check=True)  # noqa: S603
    command = [uv, "pip", "install", "-q", "--python", str(python), f"byzfl=={VERSION}"]
    subprocess.run(command, check=True)  # noqa: S603
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "given.npz"), Path(folder, "found.npz")
        np.savez(source, updates=updates, malicious=MALICIOUS, radius=RADIUS)
        side = ROOT / "benchmarks" / "sides" / "byzfl_side.py"
        subprocess.run([str(python), str(side), str(source), str(target)], check=True)  # noqa: S603
        with np.load(target) as found:
            return dict(found)


def ours(name: str, updates: Values) -> Values:
    """Return what FedShield makes of one round of updates, [n,D]."""
    if name in PRE:
        return PRE[name](updates @ updates.T, MALICIOUS) @ updates
    if name in ATTACKS:
        strength, given = 1.0 if name == "sign-flip" else 0.5, torch.from_numpy(updates)
        return ATTACKS[name](given, strength, CLIENTS, torch.Generator()).numpy()
    zero = ArrayRecord({"w": LiveArray(np.zeros(VALUES, np.float32))})
    mean = RobustMean(name, MALICIOUS, zero, {"w"}, radius=RADIUS)
    for update in updates:
        mean.add(record_of({"w": LiveArray(update.astype(np.float32))}), 1)
    return mean.result()["w"].numpy().astype(np.float64)


def main() -> None:
    """Compare and report."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 1, 1
    updates = make_updates()
    length = float(np.median(np.linalg.norm(updates, axis=2)))
    rows = []
    for name, expected in theirs(updates).items():
        apart = [float(np.abs(ours(name, each) - far).max()) for each, far in zip(updates, expected, strict=True)]
        rows.append([name, max(apart) / length, sum(each / length < 1e-6 for each in apart)])
    report(
        "against_byzfl",
        ["rule or lie", "largest difference / length", f"of {ROUNDS} rounds equal (1e-6)"],
        rows,
        byzfl=VERSION,
        clients=CLIENTS,
        values=VALUES,
        malicious=MALICIOUS,
    )


if __name__ == "__main__":
    main()
