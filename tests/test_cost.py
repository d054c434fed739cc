"""What a network costs, against torch's own counter and the sizes in the literature."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from typer.testing import CliRunner

from common.config.schema import parse_config
from common.factory import images_per_class, make_method, make_model
from common.models.flops import model_cost, training_passes
from common.models.networks import MODELS, build_model
from simulations.cli.main import app
from tests.conftest import tiny_flat

VARIANTS = [
    *((name, "small", downsample) for name in MODELS for downsample in (True, False)),
    ("resnet18", "imagenet", True),
    ("resnet18", "imagenet", False),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a convolution costs more in waiting for other threads than in arithmetic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Flops(TorchDispatchMode):
    """Torch's formulas without FlopCounterMode's tracking of modules, which fails on gradients of the image."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        output = function(*args, **(kwargs or {}))
        if (formula := flop_registry.get(function._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output


def counted(model: nn.Module, size: int) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.rand(1, 3, size, size))
    return counter.get_total_flops()


@pytest.mark.parametrize(("name", "stem", "downsample"), VARIANTS)
def test_the_arithmetic_is_what_torch_counts(name: str, stem: str, downsample: bool) -> None:
    for size in (32,) if name == "cnn2" else (32, 48):
        model = build_model(name, 10, 6, "prelu", downsample, 1, stem)
        cost = model_cost(model, size)
        assert cost.flops == counted(model, size)
        assert cost.parameters == sum(weight.numel() for weight in model.parameters())


def test_resnet18_costs_what_the_literature_says() -> None:
    with_strides = model_cost(build_model("resnet18", 10, 64, "relu", True, 1), 32)
    assert with_strides.parameters == 11_173_962
    assert with_strides.flops == pytest.approx(1.11e9, rel=0.01)
    # At 224 pixels the original has 1.8 G multiply-adds (He et al. 2016, table 1).
    original = model_cost(build_model("resnet18", 1000, 64, "relu", True, 1, "imagenet"), 224)
    assert original.flops == pytest.approx(2 * 1.8e9, rel=0.02)
    assert original.parameters == 11_689_512


def test_without_strides_the_arithmetic_is_twenty_times_as_much() -> None:
    # A quarter of the width keeps this quick; the arithmetic of all but the first layer goes with its square.
    with_strides, without = (
        model_cost(build_model("resnet18", 10, 16, "relu", downsample, 1), 32) for downsample in (True, False)
    )
    assert without.parameters == with_strides.parameters
    assert without.flops / with_strides.flops == pytest.approx(20.6, abs=0.4)


def test_counting_leaves_the_model_and_the_random_numbers_alone() -> None:
    model = build_model("cnn2", 10, 4, "relu", True, 1)
    model.train()
    model[7].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    first = model_cost(model, 32)
    assert model_cost(model, 32) == first  # no hook of the first count is left
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model[2].weight.requires_grad = False
    assert model_cost(model, 32).parameters == first.parameters - model[2].weight.numel()


@pytest.mark.parametrize(
    ("loss", "attack", "expected"),
    [
        ("pgd-at", "none", 3),
        ("pgd-at", "fgsm", 5),
        ("pgd-at", "bim", 9),
        ("pgd-at", "pgd", 9),
        ("pgd-at", "cw", 9),
        ("mixed-at", "pgd", 12),
        ("mart", "pgd", 12),
        ("trades", "pgd", 13),
        ("calfat", "pgd", 10),
    ],
)
def test_a_training_step_costs_as_many_passes_as_torch_counts(loss: str, attack: str, expected: int) -> None:
    changes = {"loss__name": loss, "attack__name": attack, "attack__steps": 3, "model__name": "resnet18"}
    config = parse_config(tiny_flat(**{**changes, "model__width": 8}))
    assert training_passes(loss, attack, 3) == expected
    model = make_model(config, 10).train()
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    step = make_method(config, model, 10).loss_for(images_per_class(labels.numpy(), 10))
    with Flops() as counter:
        torch.autograd.grad(step(images, labels), list(model.parameters()))
    # The first convolution's gradient with respect to the image is not needed for the weights: a little is saved.
    per_image = counter.total / len(images)
    assert per_image / model_cost(model, 32).flops == pytest.approx(expected, rel=0.03)


def test_a_mixture_costs_the_mean_of_its_parts() -> None:
    assert training_passes("pgd-at", "mixture", 7, (("pgd", 2.0), ("fgsm", 2.0)), 0.0) == 8 + 3
    assert training_passes("pgd-at", "mixture", 7, (("pgd", 2.0), ("fgsm", 2.0)), 0.5) == 9 + 3
    assert training_passes("pgd-at", "mixture", 7, (("pgd", 2.0), ("deepfool", 1.0))) is None
    assert training_passes("mixed-at", "deepfool", 7) is None


def doctor(*assignments: str) -> str:
    options = [part for assignment in assignments for part in ("--set", assignment)]
    found = CliRunner().invoke(app, ["doctor", *options])
    assert found.exit_code == 0, found.output
    return next(line for line in found.output.splitlines() if "model" in line)


def test_doctor_tells_what_the_configured_model_costs(tmp_path: Path) -> None:
    assert (
        "model cnn, width 8, small stem, down-sampling, relu, 10 classes, 32×32 pixels: 11,218 parameters, 1.63 MFLOP"
        in doctor()
    )
    line = doctor(
        "model.name=resnet18", "model.width=64", "model.stem=imagenet", "loss.name=mixed-at", "attack.steps=7"
    )
    assert "imagenet stem" in line
    assert "11.18 million parameters" in line
    assert line.endswith("training by mixed-at, attack pgd-7: 1.48 GFLOP an image")  # 20 × 74 MFLOP
    assert doctor("attack.name=deepfool").endswith("attack deepfool: cannot be predicted")
    for place in (tmp_path / part / name for part in ("train", "test") for name in ("cat", "dog", "owl")):
        place.mkdir(parents=True)
        (place / "0.png").touch()
    line = doctor("data.name=folder", f"data.root={tmp_path}", "data.image-size=64", "model.downsample=false")
    assert "no down-sampling, relu, 3 classes, 64×64 pixels" in line
