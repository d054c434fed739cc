"""Models that make attacks look weak, through the commands: each is trained, evaluated, and told."""

import json
import re
import shutil
from pathlib import Path

import pytest

from server.run_directory.reader import read_evaluations
from simulations.export.formats import export_run
from simulations.reports.compare import compare_runs
from simulations.reports.headline import read_figures
from tests.helpers.program import invoke, tiny_options

CODE = """
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self, classes):
        features = nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, classes)
        super().__init__(*features)


class Noise(Net):
    def forward(self, pixels):
        return super().forward(pixels + 0.25 * torch.randn_like(pixels))


class Probabilities(Net):
    def forward(self, pixels):
        return super().forward(pixels).softmax(1)


class Steps(Net):
    def forward(self, pixels):
        if self.training:
            return super().forward(pixels)
        activations = torch.relu(self[0](pixels))
        return self[3](torch.round(8 * activations).flatten(1) / 8)
"""


def evaluated(folder: Path, name: str) -> tuple[str, str, Path]:
    """Train a network of the file and evaluate it; return what both commands print, and the run."""
    (folder / "own.py").write_text(CODE)
    network = ("--set", f"model.name=own.py:{name}")
    options = *tiny_options(federation__rounds=1), "--engine", "inprocess", "--name", name
    trained = invoke("run", *options, *network, cwd=folder)
    assert trained.returncode == 0, trained.stderr
    passes = ("--set", "evaluate.eot=3") if name == "Noise" else ()
    how = "--attacks", "fgsm,pgd-3", "--examples", "100", "--epsilons", "0,8"
    done = invoke("evaluate", name, *how, *passes, cwd=folder)
    assert done.returncode == 0, done.stderr
    return trained.stdout, done.stdout, folder / "runs" / name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Noise", r"the model is randomized: (\d+) of \1 images get other logits when they are shown again; "),
        ("Probabilities", r"the model returns probabilities \(they add up to 1\) where attacks expect logits"),
        ("Steps", r"the gradient of the loss is exactly zero for (\d+) of \1 images"),
    ],
)
def test_a_broken_model_is_told(tmp_path: Path, name: str, words: str) -> None:
    trained, told, run = evaluated(tmp_path, name)
    (record,) = read_evaluations(run)
    final = json.loads((run / "summary.json").read_text())["final"]
    for warnings, printed in ((final["warnings"], trained), (record["warnings"], told)):
        assert any(re.match(words, warning) for warning in warnings), warnings
        assert all(f"warning: {warning}" in printed for warning in warnings)
    assert ("attacks see the mean of its logits over 3 forward passes, " in told) is (name == "Noise")
    assert f"Warnings of this evaluation: {len(record['warnings'])}, " in told
    card = export_run(run, "safetensors")[1].read_text()
    assert re.search(r"- \*\*Warning\*\*: " + words, card)
    _, results, _ = compare_runs([run, shutil.copytree(run, run.with_name("copy"))])
    assert any(re.match(f"{name}: warning: {words}", note) for note in results.notes)
    randomized = f"model.name = own.py:{name} is randomized: attacks of evaluations see the mean of its logits over 20 "
    assert (randomized in trained) is (name == "Noise")


def test_the_same_model_without_its_steps_breaks_more_and_that_is_told(tmp_path: Path) -> None:
    *_, run = evaluated(tmp_path, "Steps")
    smooth = shutil.copytree(run, run.with_name("Smooth"))
    config = json.loads((smooth / "config.json").read_text())
    config["model"]["name"] = "own.py:Net"
    (smooth / "config.json").write_text(json.dumps(config))
    how = "--attacks", "pgd-3", "--examples", "100", "--from", "Smooth"
    done = invoke("evaluate", "Steps", *how, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = read_evaluations(run)[-1]
    assert record["robust"]["pgd-3 from Smooth"]["value"] < record["robust"]["pgd-3"]["value"]
    words = r"pgd-3 from Smooth broke \d+ images that pgd-3 did not, and pgd-3 \d+ that it did not: "
    (told,) = (warning for warning in record["warnings"] if re.match(words, warning))
    assert f"warning: {told}" in done.stdout
    assert read_figures(run)["worst"]["value"] <= record["worst"]["value"]
