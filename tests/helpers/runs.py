"""Federations in this process, and what they leave behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.config.schema import RunConfig
from server.app import run_federation
from server.run_directory.checkpoint import load_model
from server.run_directory.index import read_checkpoint
from server.run_directory.reader import read_metrics
from simulations.engine.executor import Executor, InProcess
from simulations.engine.local_grid import LocalGrid, Reply
from tests.helpers.settings import tiny_config


def run(tmp_path: Path, name: str, executor: Executor | None = None, **changes: object) -> Path:
    config = tiny_config(results__dir=str(tmp_path), results__name=name, **changes)
    return run_federation(LocalGrid(config, executor or InProcess()), config)


def run_with(engine: Callable[[RunConfig, int], Executor], tmp_path: Path, name: str, **changes: object) -> Path:
    """Run with two workers of an engine, which are closed afterwards."""
    executor = engine(tiny_config(), 2)
    try:
        return run(tmp_path, name, executor, **changes)
    finally:
        executor.close()


def run_in_parts(tmp_path: Path, stops: Callable[[Reply], bool], **changes: object) -> Path:
    """Run until a reply of a client stops it as Ctrl-C does, and then to its end."""

    def interrupt(reply: Reply) -> None:
        if stops(reply):
            raise KeyboardInterrupt

    config = tiny_config(results__dir=str(tmp_path), results__name="part", **changes)
    with pytest.raises(KeyboardInterrupt):
        run_federation(LocalGrid(config, InProcess(), interrupt), config)
    return run(tmp_path, "ignored", results__resume=str(tmp_path / "part"), **changes)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(run_dir)
    assert checkpoint is not None
    return load_model(run_dir, checkpoint)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def figures(run_dir: Path) -> list[tuple]:
    """What must be equal in two runs: everything but the times."""
    return [(line["round"], line["loss"], line["evaluation"]) for line in read_metrics(run_dir)]
