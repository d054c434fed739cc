"""What the fast training attack saves on a CPU: the attack alone and the whole training step, over plain torchattacks.

    python -m benchmarks.cpu_attack [--repeats 7]

One thread, CPU seconds: other processes on the machine change them little. All sides of a network run in turn.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torchattacks
from torch import Tensor, nn

from benchmarks.adversarial_step import EPSILON, STEP, plain
from benchmarks.adversarial_step import Work as Step
from benchmarks.harness import Figures, Side, alternate, median, median_ratio, report
from common.attacks.library import attack_mode, build_attack
from common.attacks.threat import Threat
from common.factory import prepare_torch
from common.models.networks import build_model
from common.training.context import in_bfloat16
from common.training.losses import LOSSES, LossContext
from common.training.trainer import Trainer, TrainingPlan

STEPS = 7
NETWORKS = (("cnn", 8, 16), ("cnn", 16, 32), ("resnet18", 16, 64), ("resnet18", 64, 32))  # name, width, batch
THREAT = Threat(EPSILON, STEP, STEPS)
PLAIN = "plain torchattacks"


def in_cpu_seconds(work: Callable[[], object]) -> Side:
    """Return a side that measures the CPU seconds of some work."""

    def side() -> Figures:
        started = time.process_time()
        work()
        return {"CPU s": time.process_time() - started}

    return side


def attacks(network: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> dict[str, Side]:
    """Return the sides of the attack alone."""
    model = network()
    theirs = torchattacks.PGD(model, eps=EPSILON, alpha=STEP, steps=STEPS)
    ours = {fast: build_attack("pgd", model, THREAT, fast=fast) for fast in (False, True)}

    def in_eval_mode() -> None:
        with attack_mode(model):
            theirs(images, labels)

    return {
        PLAIN: in_cpu_seconds(in_eval_mode),
        "FedShield, not fast": in_cpu_seconds(lambda: ours[False](images, labels)),
        "FedShield": in_cpu_seconds(lambda: ours[True](images, labels)),
        "FedShield, attack in bfloat16": in_cpu_seconds(lambda: in_bfloat16(ours[True])(images, labels)),
    }


def steps(network: Callable[[], nn.Module], images: np.ndarray, labels: np.ndarray) -> dict[str, Side]:
    """Return the sides of the whole training step: attack, loss, gradients, SGD."""

    def ours(fast: bool, half: bool) -> Side:
        model = network()
        trainer = Trainer(model)
        loss = LOSSES["pgd-at"](model, LossContext("pgd", THREAT, 0.0, 0.0, fast=fast, half=half))
        plan = TrainingPlan(1, len(images), 0.01, 0.9, 2e-4, augment=False, precision="float32")
        return in_cpu_seconds(lambda: trainer.fit(images, labels, loss, plan, 1))

    return {
        PLAIN: in_cpu_seconds(plain(network(), images, labels, Step(STEPS, len(images), "float32"))),
        "FedShield, not fast": ours(fast=False, half=False),
        "FedShield": ours(fast=True, half=False),
        "FedShield, attack in bfloat16": ours(fast=True, half=True),
    }


def main() -> None:
    """Measure every network and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    prepare_torch(1)
    rng = np.random.default_rng(0)
    rows, runs = [], {}
    for name, width, batch in NETWORKS:
        images, labels = rng.integers(0, 256, (batch, 3, 32, 32), np.uint8), rng.integers(0, 10, batch)
        pixels, truth = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)

        def network(name: str = name, width: int = width) -> nn.Module:
            return build_model(name, 10, width, "relu", True, 1)

        for what, sides in (("attack", attacks(network, pixels, truth)), ("step", steps(network, images, labels))):
            found = alternate(sides, options.repeats, warmups=2)
            for side, figures in found.items():
                ratio = median_ratio(found[PLAIN], figures, "CPU s")
                rows.append([f"{name}, width {width}, batch {batch}", what, side, median(figures, "CPU s"), ratio])
            runs[f"{name} {width} {batch} {what}"] = found
    report("cpu_attack", ["network", "what", "side", "CPU s", "× plain"], rows, attack=f"PGD-{STEPS}", runs=runs)


if __name__ == "__main__":
    main()
