"""Exported models give the logits of the run's own, in the programs that they are for."""

import json
import shutil
import textwrap
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.attacks.threat import Threat
from common.errors import FedShieldError
from common.evaluation.evaluate import evaluate
from common.exported import load_exported
from common.factory import make_model
from common.factory import test_data as read_test
from common.models.networks import build_model
from server.run_directory.checkpoint import selected_model
from server.run_directory.restored import stored_config
from simulations.centralized import train_centrally
from simulations.cli.result_commands import Format
from simulations.export.formats import FORMATS, export_run, torchvision_state
from simulations.export.model_card import torchvision_use
from tests.helpers.program import invoke
from tests.helpers.runs import run
from tests.helpers.settings import tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs"), "finished", model__activation="mish")


def own(run_dir: Path) -> nn.Module:
    model = make_model(stored_config(run_dir, {}, "options"), 10)
    model.load_state_dict(selected_model(run_dir)[1])
    return model.eval()


def example(card: Path) -> str:
    """The code by which a card says that its model is used."""
    use = card.read_text().split("## Use")[1].split("## Where")[0]
    return "\n".join(line[4:] for line in use.splitlines() if line.startswith("    "))


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_safetensors_come_back_bit_for_bit_and_are_evaluated_the_same(finished: Path, pixels: Tensor) -> None:
    path, _ = export_run(finished, "safetensors")
    model = load_exported(path)
    assert not model.training
    with torch.no_grad():
        assert torch.equal(model(pixels), own(finished)(pixels))
    test = read_test(stored_config(finished, {}, "options")).take(np.arange(40))
    threat = Threat(8 / 255, 2 / 255, 3)
    again, before = (
        evaluate(m, test.images, test.labels, ("pgd-3",), threat, 1, 40).values() for m in (model, own(finished))
    )
    assert again == before


def test_torch_and_onnx_programs_take_any_number_of_images(finished: Path, tmp_path: Path, pixels: Tensor) -> None:
    program, _ = export_run(finished, "torch", tmp_path)
    onnx, _ = export_run(finished, "onnx", tmp_path)
    loaded = torch.export.load(program).module()
    session = onnxruntime.InferenceSession(onnx)
    for count in (1, 3, 5):
        with torch.no_grad():
            expected = own(finished)(pixels[:count])
            torch.testing.assert_close(loaded(pixels[:count]), expected)
        (logits,) = session.run(None, {"pixels": pixels[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_torchvisions_resnet18_gives_the_same_logits_used_as_the_card_says(
    stem: str, pixels: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model("resnet18", 10, 64, "relu", True, 1, stem).eval()
    save_file(torchvision_state(model), tmp_path / "model.torchvision.safetensors")
    monkeypatch.chdir(tmp_path)
    room = {"pixels": pixels}
    exec(textwrap.dedent(torchvision_use(tiny_config(model__name="resnet18", model__stem=stem), 10)), room)
    with torch.no_grad():
        torch.testing.assert_close(room["logits"].detach(), model(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5"])
def test_torchvisions_own_networks_give_the_same_logits_used_as_the_card_says(
    name: str, pixels: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"centralized__epochs": 1, "data__max_examples": 20, "evaluate__attacks": "", "evaluate__final_attacks": ""}
    here = {"results__dir": str(tmp_path), "results__name": "run"}
    config = tiny_config(model__name=f"torchvision:{name}", **quick, **here)
    path = train_centrally(config)
    _, card = export_run(path, "torchvision", tmp_path)
    monkeypatch.chdir(tmp_path)
    room = {"pixels": pixels}
    exec(example(card), room)
    with torch.no_grad():
        assert torch.equal(room["logits"], own(path)(pixels))
    assert f"`torchvision:{name}`: adversarial" in card.read_text()  # and no activation, which is not its own


def test_the_card_says_what_the_model_is_and_its_example_runs(
    finished: Path, tmp_path: Path, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = json.loads((finished / "summary.json").read_text())["final"]
    for kind in ("safetensors", "torch", "onnx"):
        _, card = export_run(finished, kind, tmp_path / kind)
        text = card.read_text()
        assert (
            "`cnn` (mish): adversarial training with mixed-at against pgd at epsilon 8/255 (Linf), by a federation of "
            in text
        )
        assert f"| worst case | {100 * final['worst']['value']:.1f} | [" in text
        monkeypatch.chdir(tmp_path / kind)
        room = {"pixels": pixels.numpy() if kind == "onnx" else pixels}
        exec(example(card), room)
        assert room["logits"].shape == (5, 10)


def test_a_folder_holds_one_model_in_several_formats(finished: Path, tmp_path: Path) -> None:
    other, folder = run(tmp_path, "other", seed=2), tmp_path / "models"
    for kind in ("torch", "safetensors"):
        text = export_run(finished, kind, folder)[1].read_text()
    assert "torch.export.load" in text
    assert "load_exported" in text
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        FedShieldError, match=rf"models/model\.pt2: belongs to another model than {other} has now; remove it"
    ):
        export_run(other, "safetensors", folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "model.pt2").unlink()
    text = export_run(other, "safetensors", folder)[1].read_text()  # in the place of the first one's
    assert "torch.export.load" not in text
    assert "seed 2" in text


NETWORKS = """
from torch import nn
from common.models.networks import Normalize

class Tied(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.pool = nn.Sequential(Normalize(), nn.AvgPool2d(8), nn.Flatten())
        self.first, self.second, self.last = nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, classes)
        self.second.weight = self.first.weight

    def forward(self, pixels):
        return self.last(self.second(self.first(self.pool(pixels)).relu()))

class Deciding(Tied):
    def forward(self, pixels):
        logits = super().forward(pixels)
        return logits if logits.sum() > 0 else 2 * logits

def tied(classes):
    return Tied(classes)

def deciding(classes):
    return Deciding(classes)
"""


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(NETWORKS)
    return tmp_path / "own.py"


def test_tied_weights_are_exported_and_stay_tied(networks: Path, tmp_path: Path, pixels: Tensor) -> None:
    trained = run(tmp_path, "tied", model__name=f"{networks}:tied", federation__rounds=1)
    path, _ = export_run(trained, "safetensors", tmp_path / "out")
    model = load_exported(path)
    with torch.no_grad():
        assert torch.equal(model(pixels), own(trained)(pixels))
    assert model.first.weight is model.second.weight
    program, _ = export_run(trained, "torch", tmp_path / "out")
    torch.testing.assert_close(torch.export.load(program).module()(pixels), model(pixels))


@pytest.mark.slow
def test_a_network_that_torch_cannot_make_a_program_of_is_one_line(networks: Path, tmp_path: Path) -> None:
    trained = run(tmp_path, "deciding", model__name=f"{networks}:deciding", federation__rounds=1)
    for kind in ("torch", "onnx"):
        done = invoke("export", str(trained), "--format", kind)
        assert done.returncode == 1
        assert done.stderr.startswith(f"fedshield: --format {kind}: torch cannot export model.name = ")
        assert (done.stderr.count("\n"), done.stdout) == (1, "")
    load_exported(export_run(trained, "safetensors")[0])


def test_what_cannot_be_exported_or_loaded_is_one_line(finished: Path, tmp_path: Path) -> None:
    assert set(FORMATS) == {kind.value for kind in Format}
    with pytest.raises(FedShieldError, match=r"torchvision: model\.name = cnn; torchvision's resnet18 has resnet18;"):
        export_run(finished, "torchvision", tmp_path)
    with pytest.raises(FedShieldError, match=r"nothing: not found; give a file from"):
        load_exported(tmp_path / "nothing")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other")
    (tmp_path / "text").write_text("no tensors")
    path, _ = export_run(finished, "safetensors", tmp_path)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-100])
    for name in ("other", "text", "cut"):
        with pytest.raises(FedShieldError, match="damaged, or not written by fedshield export"):
            load_exported(tmp_path / name)
    empty = shutil.copytree(finished, tmp_path / "empty", ignore=shutil.ignore_patterns("checkpoint", "export"))
    done = invoke("export", str(empty))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has no checkpoint" in done.stderr
