"""What a reader needs to judge a run and to repeat it."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.machine import available_cores
from common.models.flops import model_cost

PACKAGES = ("fedshield", "flwr", "flwr-datasets", "numpy", "torch", "torchattacks", "torchvision")


def processor() -> str:
    """Return the processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe_environment(device: torch.device, model: nn.Module, image_size: int) -> dict[str, Any]:
    """Return hardware, versions, the command line, and the network's weights and FLOPs for one image.

    Args:
        device: where the run computes.
        model: its network.
        image_size: side of the images, in pixels.
    """
    return {
        "command": _command(),
        "folder": _text(os.getcwd()),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "model": asdict(model_cost(model, image_size)),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "packages": {name: installed(name) for name in PACKAGES},
    }


def went_on(first: Mapping[str, Any], now: Mapping[str, Any], completed_rounds: int) -> tuple[dict[str, Any], str]:
    """Return what a run's environment is when it goes on, and what of it may give its numbers other last digits.

    Args:
        first: as the run began, with each time that it went on.
        now: as in ``describe_environment``.
        completed_rounds: or epochs.

    Returns:
        ``first``, with what is different now at the end of ``resumed``; and a line for the log, empty if it all agrees.
    """
    other = {key: value for key, value in now.items() if first.get(key) != value}
    keys = [key for key in ("threads", "processor", "device", "packages") if key in other and key in first]
    told = "; ".join(f"{key} {_difference(first[key], other[key])}" for key in keys)
    return {**first, "resumed": [*first.get("resumed", []), {"after": completed_rounds, **other}]}, told


def _difference(before: Any, now: Any) -> str:
    """Say what has changed; of versions, only those that have."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return f"{before} -> {now}"
    return ", ".join(f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name])


def _command() -> str:
    """Return the command line if it is FedShield's own; those of Flower's launchers contain tokens.

    A script's name gets a ``python`` before it, or one that begins with ``flower`` would be taken for these.
    """
    program = Path(sys.argv[0]).name
    if program == "fedshield":
        return _text(shlex.join([program, *sys.argv[1:]]))
    return _text(f"python {program}" if program.endswith(".py") else program)


def _text(words: str) -> str:
    """Return a text of the system without bytes that are not text."""
    return os.fsencode(words).decode(errors="replace")


def installed(name: str) -> str | None:
    """Return a package's version, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
