"""Images a second of PGD adversarial training: ours, a plain torchattacks loop, and what the hardware could do.

    python -m benchmarks.adversarial_step [--repeats 5] [--steps 10] [--width 64] [--batches 128,1024]

The limit is the measured speed of large matrix products in the same precision; ``FLOP/s`` counts the network's
multiplications and additions alone: (2 × steps + 3) forward passes for each image, 1.11 GFLOP each for ResNet-18 at
width 64 (a gradient step of the attack costs two forward passes, a training step three).
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torchattacks
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.harness import Figures, alternate, median, median_ratio, report
from common.attacks.threat import Threat
from common.factory import prepare_torch
from common.models.flops import model_cost
from common.models.networks import build_model
from common.training.losses import LOSSES, LossContext
from common.training.trainer import Trainer, TrainingPlan

EPSILON, STEP = 8 / 255, 2 / 255


@dataclass(frozen=True)
class Work:
    """PGD steps, images a batch, precision."""

    steps: int
    batch: int
    precision: Literal["float32", "bfloat16"]


def matrix_speed(device: torch.device, kind: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product, best of five."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = 0.0
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(4):
            left @ right
        wait(device)
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - started))
    return best


def wait(device: torch.device) -> None:
    """Return when the device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def ours(model: nn.Module, images: np.ndarray, labels: np.ndarray, work: Work, fast: bool) -> Callable[[], None]:
    """Return one epoch of our ``Trainer``; on a GPU its batches are recorded."""
    context = LossContext("pgd", Threat(EPSILON, STEP, work.steps), 0.0, 0.0, fast=fast)
    trainer, loss = Trainer(model, record=True), LOSSES["pgd-at"](model, context)
    schedule = TrainingPlan(1, work.batch, 0.01, 0.9, 2e-4, augment=False, precision=work.precision)

    def epoch() -> None:
        trainer.fit(images, labels, loss, schedule, 1)

    return epoch


def plain(model: nn.Module, images: np.ndarray, labels: np.ndarray, work: Work) -> Callable[[], None]:
    """Return the same epoch as a plain loop over torchattacks' PGD."""
    device = next(model.parameters()).device
    attack = torchattacks.PGD(model, eps=EPSILON, alpha=STEP, steps=work.steps)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=2e-4)
    data, targets = torch.from_numpy(images), torch.from_numpy(labels)

    def epoch() -> None:
        model.train()
        for rows in torch.split(torch.randperm(len(data)), work.batch):
            batch, truth = data[rows].to(device).float() / 255, targets[rows].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=work.precision == "bfloat16"):
                loss = cross_entropy(model(attack(batch, truth)), truth)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return epoch


def timed(epoch: Callable[[], None], count: int, device: torch.device) -> Callable[[], Figures]:
    """Return a side that measures images a second."""

    def side() -> Figures:
        started = time.perf_counter()
        epoch()
        wait(device)
        return {"images/s": count / (time.perf_counter() - started)}

    return side


def measure(work: Work, options: argparse.Namespace, device: torch.device) -> tuple[dict[str, list[Figures]], float]:
    """Measure both sides in turn; return their speeds, and the FLOPs of one image."""
    count = options.images or work.batch * (16 if device.type == "cuda" else 1)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 3, 32, 32), np.uint8), rng.integers(0, 10, count)
    sides = {}
    builds: dict[str, Callable[..., Callable[[], None]]] = {
        "plain torchattacks": plain,
        "FedShield": partial(ours, fast=False),
        "FedShield, fast": partial(ours, fast=True),
    }
    for name, build in builds.items():
        model = build_model("resnet18", 10, options.width, "relu", True, 1).to(device)
        sides[name] = timed(build(model, images, labels, work), count, device)
    return alternate(sides, options.repeats), (2 * work.steps + 3) * model_cost(model, 32).flops


def main() -> None:
    """Measure every combination and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--images", type=int, default=0, help="of an epoch; 0 = one batch on a CPU, 16 on a GPU")
    parser.add_argument("--width", type=int, default=64, help="of the ResNet-18")
    parser.add_argument("--batches", default="128,1024")
    parser.add_argument("--precisions", default="float32,bfloat16")
    options = parser.parse_args()
    device = prepare_torch(0)
    rows, runs = [], {}
    for precision in options.precisions.split(","):
        peak = matrix_speed(device, getattr(torch, precision))
        for batch in map(int, options.batches.split(",")):
            work = Work(options.steps, batch, precision)
            found, flops = measure(work, options, device)
            for name, speeds in found.items():
                speed = median(speeds, "images/s")
                ratio = median_ratio(speeds, found["plain torchattacks"], "images/s")
                rows.append([precision, batch, name, speed, ratio, speed * flops / 1e9, speed * flops / peak])
            runs[f"{precision} {batch}"] = {"peak FLOP/s": peak, **found}
    report(
        f"adversarial_step_width{options.width}",
        ["precision", "batch", "side", "images/s", "× plain", "GFLOP/s", "of the matrix product"],
        rows,
        attack=f"PGD-{options.steps}",
        width=options.width,
        device=device.type,
        runs=runs,
    )


if __name__ == "__main__":
    main()
