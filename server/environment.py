"""What a reader of a run directory needs to judge and repeat it."""

import hashlib
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data import Dataset
from common.machine import available_cores
from common.partition import Indices, Partition

PACKAGES = ("fedshield", "flwr", "flwr-datasets", "numpy", "torch", "torchattacks", "torchvision")


def processor() -> str:
    """Return the processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return hardware, versions and the command line."""
    return {
        "command": _command(),
        "folder": os.getcwd(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "packages": {name: installed(name) for name in PACKAGES},
    }


def _command() -> str:
    """Return the command line where it is FedShield's own; Flower's launchers have tokens among their arguments."""
    program = Path(sys.argv[0]).name
    return shlex.join([program, *sys.argv[1:]]) if program == "fedshield" else program


def installed(name: str) -> str | None:
    """Return a package's version, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def describe_partition(train: Dataset, division: Partition) -> dict[str, Any]:
    """Return images per class of every client, of the pool and of the shared data, with a digest of all the indices."""
    digest = hashlib.sha256()
    for rows in (*division.shards, division.pool, division.shared):
        digest.update(rows.tobytes() + b"|")

    def counts(rows: Indices) -> list[int]:
        return [int(count) for count in np.bincount(train.labels[rows], minlength=len(train.classes))]

    return {
        "classes": list(train.classes),
        "clients": [counts(shard) for shard in division.shards],
        "pool": counts(division.pool),
        "shared": counts(division.shared),
        "sha256": digest.hexdigest(),
    }
