"""Federations in this process, and what they leave behind."""

from pathlib import Path

import torch

from server.app import run_federation
from server.run_directory.checkpoint import load_model, read_checkpoint
from server.run_directory.reader import read_metrics
from simulations.engine.executor import InProcess
from simulations.engine.local_grid import LocalGrid
from tests.helpers.settings import tiny_config


def run(tmp_path: Path, name: str, executor: InProcess | None = None, **changes: object) -> Path:
    config = tiny_config(results__dir=str(tmp_path), results__name=name, **changes)
    return run_federation(LocalGrid(config, executor or InProcess()), config)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(run_dir)
    assert checkpoint is not None
    return load_model(run_dir, checkpoint)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def figures(run_dir: Path) -> list[tuple]:
    """What must be equal in two runs: everything but the times."""
    return [(line["round"], line["loss"], line["evaluation"]) for line in read_metrics(run_dir)]
