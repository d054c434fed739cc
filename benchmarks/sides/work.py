"""What the sides of ``same_work`` share. It imports nothing but torch and numpy: FedShield is not in every environment.

One thousand clients of 50 images, 50 of them in a round, one epoch of plain SGD in batches of 10, on the network of two
convolutions of apple/pfl-research's CIFAR-10 benchmark. As there, the other frameworks' images are normalized once and
kept as float32 tensors [N,H,W,C]; FedShield normalizes in the network.
"""

import argparse
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

CLASSES, BATCH, LEARNING_RATE, TEST_BATCH = 10, 10, 0.1, 500
# Of CIFAR-10's training pixels, as FedShield has them; pfl's own script computes them at each start, in seconds.
MEAN = 255 * np.array([0.4914, 0.4822, 0.4465], dtype=np.float32)
DEVIATION = 255 * np.array([0.2470, 0.2435, 0.2616], dtype=np.float32)
FIRST_STEP = "FIRST_STEP_FILE"  # variable of the environment


class Network(nn.Module):
    """The ``simple_cnn`` of pfl's benchmarks for images [B,32,32,3]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(64 * 14 * 14, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, CLASSES),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, images: Tensor) -> Tensor:
        """[B,H,W,C] -> logits [B,classes]."""
        logits: Tensor = self.layers(images.permute(0, 3, 1, 2))
        return logits


class Clock:
    """Notes when each round ends: by the clock on the wall, and in seconds of CPU."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def tick(self) -> None:
        """A round has ended."""
        self.ends.append((time.perf_counter(), cpu_seconds()))

    def rounds(self) -> dict[str, list[float]]:
        """Return the seconds of each round after the first."""
        wall, cpu = np.diff(self.ends, axis=0).T.tolist()
        return {"rounds": wall, "cpu": cpu}


def cpu_seconds() -> float:
    """Return the CPU time of this process, of its descendants, and of those of them that have ended."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended while we looked
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    family = {os.getpid()}
    while born := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= born
    return sum(ticks[pid] for pid in family) / os.sysconf("SC_CLK_TCK")


def note_first_step() -> None:
    """Write down when a network of this process is first used, unless another process was earlier."""
    if path := os.environ.get(FIRST_STEP):

        def note(module: nn.Module, inputs: object) -> None:
            hook.remove()
            with suppress(FileExistsError), Path(path).open("x") as file:
                file.write(str(time.time()))

        hook = nn.modules.module.register_module_forward_pre_hook(note)


def read_options() -> argparse.Namespace:
    """Read the command line of a side, and prepare torch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="npz with train-images, train-labels, test-images, test-labels")
    parser.add_argument("--workers", type=int, default=1, help="processes that train")
    for name in ("rounds", "clients", "cohort", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options


def read_shards(options: argparse.Namespace) -> list[tuple[Tensor, Tensor]]:
    """Return each client's images and labels."""
    order = np.random.default_rng(0).permutation(_read(options, "train-labels").size)
    parts = (torch.tensor_split(part, options.clients) for part in _tensors(options, "train", order))
    return list(zip(*parts, strict=True))


def accuracy(network: nn.Module, options: argparse.Namespace) -> float:
    """Return a network's accuracy on the test images."""
    images, labels = _tensors(options, "test", slice(None))
    network.eval()
    with torch.no_grad():
        logits = torch.cat([network(part) for part in torch.split(images, TEST_BATCH)])
    return (logits.argmax(1) == labels).float().mean().item()


def train(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the training loss of a batch."""
    network.train()
    return F.cross_entropy(network(images), labels)


def finish(clock: Clock, accuracy: float) -> None:
    """Print one JSON line."""
    sys.stdout.write("\n" + json.dumps({**clock.rounds(), "accuracy": accuracy, "python": sys.version.split()[0]}))


def _read(options: argparse.Namespace, name: str) -> Any:
    with np.load(options.data) as file:
        return file[name]


def _tensors(options: argparse.Namespace, part: str, order: Any) -> tuple[Tensor, Tensor]:
    """Return normalized images, channels last, and labels."""
    images = _read(options, f"{part}-images")[order].transpose(0, 2, 3, 1).astype(np.float32, order="C")
    images -= MEAN
    images /= DEVIATION
    return torch.from_numpy(images), torch.from_numpy(_read(options, f"{part}-labels")[order])


note_first_step()  # here, because processes that a framework starts import this file and call nothing else
