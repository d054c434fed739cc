"""Do adversarially trained models tell more about their training images (Song et al. 2019, arXiv 1905.10291)?

    python -m benchmarks.membership [FILE.toml] [--set KEY=VALUE ...] [--seeds 3] [--examples 500] [--shadows 4]

For each seed, two federations that differ in the training attack alone are trained in this process, naturally and by
PGD-AT, and attacked as ``fedshield privacy`` attacks them.
"""

import argparse
import logging
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.harness import report
from common.config.flat import Flat, default_config
from common.config.schema import parse_config
from server.app import run_federation
from server.membership import measure_privacy
from simulations.cli.options import given
from simulations.engine.executor import InProcess
from simulations.engine.local_grid import LocalGrid

PAIR: dict[str, Flat] = {
    "natural": {"attack.name": "none", "loss.name": "pgd-at"},
    "PGD-AT": {"attack.name": "pgd", "loss.name": "pgd-at"},
}
COLUMNS = ("training", "trained on", "attack", "n", "AUC", "AUC of each seed", "TPR at 1 % FPR, %", "gap", "robust gap")


def attacked(settings: Flat, seed: int, folder: Path, examples: int, shadows: int) -> dict[str, Any]:
    """Train one model and return what the attacks find."""
    place: Flat = {"results.dir": str(folder), "seed": seed, "evaluate.final-attacks": ""}
    config = parse_config({**default_config(), **settings, **place})
    path = run_federation(LocalGrid(config, InProcess()), config)
    return measure_privacy(path, {}, examples, shadows)[0]


def rows_of(training: str, records: list[dict[str, Any]]) -> list[list[Any]]:
    """Return a row for each group of images and each attack, means over the seeds."""
    rows = []
    for name, first in records[0]["groups"].items():
        groups = [record["groups"][name] for record in records]
        gaps = [
            100 * fmean(group["members"][kind] - group["others"][kind] for group in groups)
            for kind in ("natural", "robust")
        ]
        for attack in first["attacks"]:
            found = [group["attacks"][attack] for group in groups]
            rates = [each["tpr"]["0.01"] for each in found]
            rate = 100 * fmean(rates) if None not in rates else "–"
            areas = [each["auc"] for each in found]
            each = ", ".join(f"{area:.3f}" for area in areas)
            rows.append([training, first["what"], attack, first["n"], fmean(areas), each, rate, *gaps])
    return rows


def main() -> None:
    """Train and attack the pairs, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE.toml", help="settings, or the name of a preset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--shadows", type=int, default=4)
    options = parser.parse_args()
    settings = given(options.file, options.set)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    rows, runs = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for training, own in PAIR.items():
            runs[training] = [
                attacked({**settings, **own}, seed, Path(folder), options.examples, options.shadows)
                for seed in range(1, options.seeds + 1)
            ]
            rows += rows_of(training, runs[training])
    report("membership", COLUMNS, rows, settings=settings, seeds=options.seeds, runs=runs)


if __name__ == "__main__":
    main()
