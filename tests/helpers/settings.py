"""A small run configuration, and waiting for what other processes do."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config.flat import Flat, default_config
from common.config.schema import RunConfig, parse_config

TINY: Flat = {
    "threads": 1,
    "data.max-examples": 200,
    "federation.rounds": 2,
    "model.width": 2,
    "attack.steps": 1,
    "train.batch-size": 16,
    "evaluate.examples": 40,
    "evaluate.attacks": "fgsm,pgd-2",
    "evaluate.final-examples": 40,
    "evaluate.final-attacks": "pgd-3",
}

# The loss rises; round 4 is the first in which this is a trouble, and then the run goes back.
DIVERGES: Mapping[str, Any] = {
    **{"train__learning_rate": 5.0, "strategy__update_limit": 0.0},
    **{"repair__enabled": True, "repair__rate_factor": 0.001},
}
PRIVATE: Mapping[str, Any] = {
    **{"model__norm": "group", "privacy__noise_multiplier": 1.0, "privacy__adaptive_clipping": 0.5},
    **{"federation__rounds": 3, "evaluate__every": 3},
}


class Threshold(nn.Module):
    """Class 1 when the first pixel is above 128/255, whose distance to it is the robust radius."""

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, pixels: Tensor) -> Tensor:
        margin = self.scale * (pixels[:, 0, 0, 0] - 128 / 255)
        return torch.stack([-margin, margin], 1)


def tiny_flat(**changes: object) -> Flat:
    """Defaults, made tiny; keyword `federation__rounds=3` sets `federation.rounds`."""
    flat = {**default_config(), **TINY}
    for key, value in changes.items():
        flat[key.replace("__", ".").replace("_", "-")] = value  # type: ignore[assignment]
    return flat


def tiny_config(**changes: object) -> RunConfig:
    return parse_config(tiny_flat(**changes))


def until(holds: Callable[[], bool], timeout: float = 120, every: float = 0.02, told: Callable[[], str] = str) -> None:
    """Wait until something holds; fail, with what is ``told``, when it does not within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(every)


def lives(process: int) -> bool:
    """Return whether a process runs; one that has ended may stay in the table until its parent asks."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
