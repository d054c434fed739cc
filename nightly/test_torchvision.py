"""Every classifier of torchvision: trained for a round, evaluated, exported, resumed; as tiny as it takes images."""

from pathlib import Path

import psutil
import pytest
import torch
import torchvision

from common.errors import FedShieldError
from common.exported import load_exported
from common.models.networks import build_model
from server.evaluation import evaluate_run
from server.run_directory.reader import read_metrics
from simulations.export.formats import export_run
from tests.helpers.images import make_folder
from tests.helpers.runs import run

NAMES = torchvision.models.list_models(module=torchvision.models)
SMALLEST = {"alexnet": 64, "inception_v3": 80, "maxvit_t": 224, "vit_h_14": 112}  # pixels; 32 for all others
HUGE = {"regnet_y_128gf", "vit_h_14"}  # 630 million weights and more
MEMORY = 40e9  # bytes, which these need


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_is_trained_evaluated_exported_and_resumed(name: str, tmp_path: Path) -> None:
    if name in HUGE and psutil.virtual_memory().available < MEMORY:
        pytest.skip(f"{name} needs {MEMORY / 1e9:.0f} GB of memory")
    side = SMALLEST.get(name, 32)
    settings = {
        "model__name": f"torchvision:{name}",
        "data__name": "folder",
        "data__root": str(make_folder(tmp_path / "images", side, images=4)),
        "data__image_size": side,
        "federation__clients": 2,
        "partition__scheme": "iid",
        "sharing__pool_fraction": 0.0,
        "sharing__fraction": 0.0,
        "train__batch_size": 4,
        "train__learning_rate": 0.001,
        "strategy__update_limit": 0.0,  # of two replies
        "attack__name": "fgsm",
        "evaluate__attacks": "fgsm",
        "evaluate__examples": 4,
        "evaluate__final_examples": 4,
        "evaluate__final_attacks": "fgsm",
    }
    path = run(tmp_path, "run", federation__rounds=1, **settings)
    again = evaluate_run(path, {"evaluate.final-attacks": "pgd-1"})
    assert again.evaluation.values()["natural"] == read_metrics(path)[-1]["evaluation"]["natural"]["value"]
    model = load_exported(export_run(path, "safetensors")[0])
    with torch.no_grad():
        assert model(torch.rand(1, 3, side, side)).shape == (1, 2)
    run(tmp_path, "run", federation__rounds=2, results__resume=str(path), **settings)
    assert [line["round"] for line in read_metrics(path)] == [1, 2]


@pytest.mark.parametrize("name", SMALLEST)
def test_one_that_does_not_take_small_images_says_so(name: str) -> None:
    with pytest.raises(FedShieldError, match=f"^model.name = torchvision:{name}: does not accept images of 32×32 "):
        build_model(f"torchvision:{name}", 2, 8, "relu", True, 1)
