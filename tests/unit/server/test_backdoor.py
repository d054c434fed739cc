"""How often a backdoor's trigger does what it is meant to do: by hand, and in a run's summary, log and report."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.data.datasets import Dataset
from server.app import run_federation
from server.measures import backdoor
from simulations.engine.byzantine import ByzantineExecutor
from simulations.engine.executor import InProcess
from simulations.engine.local_grid import LocalGrid
from simulations.reports.beside import tell_backdoor
from simulations.reports.headline import read_headline
from tests.helpers.settings import tiny_config


class Fooled(nn.Module):
    """Class 0 where the trigger is, or where the first pixel is white; else class 2."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, pixels: Tensor) -> Tensor:
        hit = ((pixels[:, :, 24:28, 24:28] == 1).all((1, 2, 3)) & (pixels[:, 0, 9, 9] < 0.5)) | (
            pixels[:, 0, 0, 0] == 1
        )
        return self.one * torch.stack([hit.float(), torch.zeros(len(hit)), 1 - hit.float()], 1)


def test_the_trigger_counts_on_images_of_other_classes_by_hand() -> None:
    images = np.zeros((6, 3, 32, 32), np.uint8)
    images[1, 0, 0, 0] = 255  # taken for class 0 as it is
    images[2, 0, 9, 9] = 255  # never
    found = backdoor(Fooled(), Dataset(images, np.array([1, 1, 2, 2, 0, 0]), ("a", "b", "c")), tiny_config())
    assert (found["target"], found["n"]) == ("a", 4)
    assert (found["with"]["value"], found["without"]["value"]) == (0.75, 0.25)


def test_it_stands_in_summary_log_and_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fedshield").propagate = True
    caplog.set_level(logging.INFO, "fedshield")
    config = tiny_config(
        federation__rounds=1, byzantine__clients=2, byzantine__attack="backdoor", results__dir=str(tmp_path)
    )
    run_dir = run_federation(LocalGrid(config, ByzantineExecutor(InProcess(), config)), config)
    found = json.loads((run_dir / "summary.json").read_text())["final"]["backdoor"]
    assert found["n"] == 36
    rates = [f"{100 * found[name]['value']:.1f} %" for name in ("with", "without")]
    line = f"backdoor: with the trigger {rates[0]} of other classes' images pass for {found['target']}, without"
    assert line in caplog.text
    told = tell_backdoor(read_headline(run_dir).figures)
    assert len(told) == 1
    assert told[0].startswith(f"backdoor: with the trigger, {rates[0]} [")
    assert told[0].endswith(
        f"of n = 36 images of other classes are taken for {found['target']}; without it, {rates[1]}"
    )
