"""How often the diagnosis raises a false alarm on healthy runs, and how often it sees runs broken on purpose.

    python -m benchmarks.diagnosis [--images data/cifar10-jpeg] [--seeds 1,2,3] [--only NAME,NAME] [--tiny]

Healthy: the presets for a CPU, and settings whose clients differ more. A severe trouble in any round is a false alarm.
Broken: what should be seen is named beside each run; it counts where it is severe in any round.
``--tiny`` runs each for a few rounds on few images, to see that it works; its figures mean nothing.
"""

import argparse
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import report
from common.config.flat import default_config, merge
from common.config.schema import RunConfig, parse_config
from common.data.datasets import load_data
from server.app import run_federation
from server.diagnosis.diagnosis import SEVERE
from server.diagnosis.judge import stored, suspects
from server.run_directory.reader import read_metrics
from simulations.cli.options import resolve
from simulations.engine.byzantine import ByzantineExecutor
from simulations.engine.executor import Executor, InProcess
from simulations.engine.local_grid import LocalGrid

_QUICK: dict[str, Any] = {"threads": 1, "evaluate.every": 1000, "evaluate.examples": 10, "evaluate.final-attacks": ""}
_TINY: dict[str, Any] = {"data.max-examples": 300, "federation.rounds": 5, "model.width": 4}
# Few clients, and several epochs between two averages: averages of ten clients after some steps do not overfit so.
_FGSM: dict[str, Any] = {
    **{"loss.name": "pgd-at", "attack.name": "fgsm", "attack.epsilon-255": 16.0, "model.width": 16},
    **{"federation.clients": 2, "federation.rounds": 12, "train.local-epochs": 4, "partition.scheme": "iid"},
    **{"train.augment": False, "train.noise-std": 0.0, "train.label-smoothing": 0.0},
}
# Many passes over few real images at a small epsilon.
_BY_HEART: dict[str, Any] = {
    **{"data.max-examples": 1000, "data.validation-fraction": 0.3, "diagnosis.examples": 300, "model.width": 16},
    **{"attack.epsilon-255": 4.0, "federation.clients": 2, "federation.rounds": 24, "train.local-epochs": 4},
    **{"partition.scheme": "iid", "sharing.fraction": 0.0, "sharing.pool-fraction": 0.0},
    **{"train.augment": False, "train.noise-std": 0.0, "train.label-smoothing": 0.0},
}
_RARE: dict[str, Any] = {
    **{"partition.scheme": "iid", "sharing.fraction": 0.0, "sharing.pool-fraction": 0.0},
    **{"data.validation-fraction": 0.5, "diagnosis.examples": 1000},
}
_APART: dict[str, Any] = {
    **{"partition.scheme": "pathological", "partition.classes-per-client": 1, "sharing.fraction": 0.0},
    **{"train.local-epochs": 5, "diagnosis.examples": 400},
}
MASKED = '''"""A network whose logits are so large that the gradient of the cross-entropy is zero in float32."""

from torch import nn

from common.models.networks import build_model


class Sharp(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.network = build_model("cnn", classes, 8, "relu", True, 1)

    def forward(self, images):
        logits = self.network(images)
        return logits if self.training else 1e4 * logits


def network(classes, width=8, activation="relu"):
    return Sharp(classes)
'''
Setting = tuple[str, dict[str, Any], str]
"""A preset, what differs from it, and the trouble that it should have; none for a healthy run."""

SETTINGS: Mapping[str, Setting] = {
    "quickstart": ("quickstart", {}, ""),
    "cpu-cifar10": ("cpu-cifar10", {}, ""),
    "cpu-study": ("cpu-study", {}, ""),
    "quickstart, no sharing": ("quickstart", {"sharing.fraction": 0.0}, ""),
    "quickstart, Dirichlet 0.1": ("quickstart", {"partition.scheme": "dirichlet", "partition.alpha": 0.1}, ""),
    "quickstart, TRADES": ("quickstart", {"loss.name": "trades"}, ""),
    "quickstart, FGSM": ("quickstart", {"attack.name": "fgsm"}, ""),
    "quickstart, no attack": ("quickstart", {"attack.name": "none"}, ""),
    "FGSM, large step": ("quickstart", _FGSM, "catastrophic-overfitting"),
    "rate x 10": ("quickstart", {"train.learning-rate": 0.8}, "divergence or collapse"),
    "one liar": ("quickstart", {"byzantine.clients": 1}, "harmful-client"),
    "two liars, IPM": ("quickstart", {"byzantine.clients": 2, "byzantine.attack": "ipm"}, "harmful-client"),
    "two liars, label flip": (
        "quickstart",
        {"byzantine.clients": 2, "byzantine.attack": "label-flip"},
        "harmful-client",
    ),
    "masked gradients": ("quickstart", {"model.name": "masked.py:network"}, "masked-gradients"),
    "known by heart": ("quickstart", {"data.name": "folder", **_BY_HEART}, "robust-overfitting"),
    "a rare class": ("quickstart", {"data.name": "folder", "data.root": "rare", **_RARE}, "lost-class"),
    "one class a client": ("quickstart", _APART, "client-drift"),
}


def configuration(name: str, seed: int, images: str, folder: Path, tiny: bool) -> RunConfig:
    """Return the configuration of one run, whose directory will be in ``folder``."""
    preset, changes, _ = SETTINGS[name]
    flat = merge(resolve(Path(preset), [], default_config()), {**changes, **_QUICK, "seed": seed}, "benchmark")
    place: dict[str, Any] = {"results.dir": str(folder), **(_TINY if tiny else {})}
    if flat["data.root"] == "rare":
        place["data.root"] = str(write_rare(folder / "rare"))
    elif flat["data.name"] == "folder":
        place["data.root"] = images
    if flat["model.name"] == "masked.py:network":
        (folder / "masked.py").write_text(MASKED)
        place["model.name"] = f"{folder / 'masked.py'}:network"
    return parse_config(merge(flat, place, "benchmark"))


def write_rare(folder: Path) -> Path:
    """Write 150 training images of each class of shapes10, 24 of the first (six of them to train on); return where."""
    splits = load_data("shapes10", "", 32)
    for part, data, most in (("train", splits.train, 150), ("test", splits.test, 100)):
        for label, name in enumerate(data.classes):
            place = folder / part / name
            place.mkdir(parents=True)
            few = 24 if label == 0 and part == "train" else most
            for number in np.flatnonzero(data.labels == label)[:few]:
                Image.fromarray(data.images[number].transpose(1, 2, 0)).save(place / f"{number}.png")
    return folder


def rounds_of(config: RunConfig) -> list[dict[str, Any]]:
    """Run a federation and return its lines of ``metrics.jsonl``."""
    executor: Executor = InProcess()
    if config.byzantine.clients:
        executor = ByzantineExecutor(executor, config)
    return read_metrics(run_federation(LocalGrid(config, executor), config))


def judge(name: str, lines: list[dict[str, Any]]) -> list[Any]:
    """Return a row: what should be seen, whether and when it was, and what else was severe or mild."""
    wanted = SETTINGS[name][2].split(" or ")
    first: dict[str, dict[str, int]] = {"mild": {}, "severe": {}}
    for line in lines:
        for found in stored(line):
            first[found.severity].setdefault(found.name, line["round"])
    others = {
        severity: ", ".join(f"{name} (round {number})" for name, number in rounds.items() if name not in wanted)
        for severity, rounds in first.items()
    }
    seen = min((first[SEVERE][trouble] for trouble in wanted if trouble in first[SEVERE]), default=0)
    named = sorted({client for line in lines for client in suspects(stored(line))})
    when = "–" if wanted == [""] else f"round {seen}" if seen else "no"
    cells = others["severe"], others["mild"], ", ".join(map(str, named))
    return [SETTINGS[name][2] or "none", when, *(cell or "–" for cell in cells)]


def main() -> None:
    """Run all settings with all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="data/cifar10-jpeg", help="CIFAR-10 as an image folder")
    parser.add_argument("--seeds", default="1,2,3", help="separated by commas")
    parser.add_argument("--only", default="", help="names of settings, separated by semicolons; default: all")
    parser.add_argument("--tiny", action="store_true", help="a few rounds on few images")
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    images, rows = str(Path(arguments.images).expanduser().absolute()), []
    for name in [part.strip() for part in arguments.only.split(";") if part] or SETTINGS:
        for seed in map(int, arguments.seeds.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                config = configuration(name, seed, images, Path(folder), arguments.tiny)
                lines: list[dict[str, Any]] = []
                end = ""
                try:
                    lines = rounds_of(config)
                except Exception as error:
                    end = str(error)
            rows.append([name, seed, *judge(name, lines), len(lines), end[:80]])
            print(rows[-1], flush=True)  # noqa: T201
    columns = ["run", "seed", "broken by", "seen", "other severe", "mild", "clients named", "rounds", "ended early"]
    report("diagnosis_tiny" if arguments.tiny else "diagnosis", columns, rows)


if __name__ == "__main__":
    main()
