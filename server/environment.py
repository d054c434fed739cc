"""What a reader of a run directory needs to judge and repeat it."""

import hashlib
import os
import platform
import shlex
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.cost import model_cost
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


def describe_environment(device: torch.device, model: nn.Module, image_size: int) -> dict[str, Any]:
    """Return hardware, versions, the command line, and the network's weights and FLOPs for one image."""
    return {
        "command": _command(),
        "folder": os.getcwd(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "model": asdict(model_cost(model, image_size)),
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
    """Return images per class of every client, of the pool, of the shared data and of the validation images.

    A digest of all the indices tells whether two runs had the same division. Without validation images nothing is said
    of them, as in the runs of earlier versions, which can still be continued.
    """
    digest = hashlib.sha256()
    held_out = [division.validation] if len(division.validation) else []
    for rows in (*division.shards, division.pool, division.shared, *held_out):
        digest.update(rows.tobytes() + b"|")

    def counts(rows: Indices) -> list[int]:
        return [int(count) for count in np.bincount(train.labels[rows], minlength=len(train.classes))]

    return {
        "classes": list(train.classes),
        "clients": [counts(shard) for shard in division.shards],
        "pool": counts(division.pool),
        "shared": counts(division.shared),
        **({"validation": counts(division.validation)} if held_out else {}),
        "sha256": digest.hexdigest(),
    }
