"""What a network costs, against torch's own counter and the sizes in the literature."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from common.config.schema import parse_config
from common.factory import make_method, make_model
from common.models.flops import FlopCounter, model_cost, training_passes
from common.models.networks import MODELS, build_model
from simulations.cli.main import app
from tests.helpers.settings import tiny_flat

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


def test_a_network_that_cannot_be_copied_is_counted_and_left_alone() -> None:
    model = build_model("resnet18", 10, 4, "relu", True, 1).train()
    model.lock = threading.Lock()
    norm = next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model_cost(model, 32).flops == counted(build_model("resnet18", 10, 4, "relu", True, 1), 32)
    assert [part for part in model.modules() if not part.training] == [norm]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


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


def test_vit_b_16_by_hand() -> None:
    # 32 pixels are 4 patches and a token for the class: 5 tokens of 768 numbers, in 12 layers of 12 heads.
    patches = 2 * 4 * 768 * (3 * 16 * 16)
    attention = 2 * 5 * 768 * (3 * 768) + 2 * (2 * 12 * 5 * 5 * 64) + 2 * 5 * 768 * 768
    layer = attention + 2 * (2 * 5 * 768 * 3072)
    model = torchvision.models.vit_b_16(weights=None, image_size=32, num_classes=10)
    assert model_cost(model, 32).flops == patches + 12 * layer + 2 * 768 * 10 == 855_002_112


def test_swin_t_by_hand() -> None:
    # Patches of 4 pixels, then stages: channels, windows of 49 tokens (the map is padded to 7), tokens, blocks.
    total = 2 * 64 * 96 * 48
    for channels, windows, tokens, blocks in ((96, 4, 64, 2), (192, 1, 16, 2), (384, 1, 4, 6), (768, 1, 1, 2)):
        weights = 2 * windows * 49 * channels * (3 * channels + channels)
        attention = 2 * (2 * windows * 49 * 49 * channels)
        total += blocks * (weights + attention + 2 * (2 * tokens * channels * 4 * channels))
        if channels < 768:  # four tokens become one of twice as many channels
            total += 2 * tokens // 4 * (4 * channels) * (2 * channels)
    model = torchvision.models.swin_t(weights=None, num_classes=10)
    assert model_cost(model, 32).flops == total + 2 * 768 * 10 == 1_035_913_728


class Own(nn.Module):
    """A user's network without a layer: 3 heads of 4 numbers attend to 8×8 places, and dice are thrown in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.ones(12, 3, 4, 4)), nn.Parameter(torch.ones(10, 12))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.seen += 1
        places = F.conv2d(images, self.weight, stride=4).view(len(images), 3, 4, 64).transpose(2, 3)
        attended = F.scaled_dot_product_attention(places, places, places)
        features = F.dropout(attended.mean(2).flatten(1), 0.5, training=True)
        return F.linear(features, self.head)


def test_a_network_without_layers_is_counted_and_left_as_it_was() -> None:
    model = Own().train()
    state = torch.get_rng_state()
    # 64 places of 12 channels from 48 values; 64 × 64 pairs of 4 numbers, twice, in 3 heads; 12 features to 10 logits
    assert model_cost(model, 32).flops == 2 * 64 * 12 * 48 + 2 * (2 * 3 * 64 * 64 * 4) + 2 * 12 * 10
    assert torch.equal(torch.get_rng_state(), state)
    assert model.seen == 0
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_does_not_import_torchs_compiler() -> None:
    # It would delay every run by seconds.
    code = (
        "import sys; from common.models.flops import model_cost; from common.models.networks import build_model\n"
        "model_cost(build_model('cnn', 10, 8, 'relu', True, 1), 32)\nprint('torch._dynamo' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert told.stdout == "False\n"


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
    ("loss", "attack", "expected", "inner"),
    [
        ("pgd-at", "none", 3, "kl"),
        ("pgd-at", "fgsm", 5, "kl"),
        ("pgd-at", "bim", 9, "kl"),
        ("pgd-at", "pgd", 9, "kl"),
        ("pgd-at", "cw", 9, "kl"),
        ("mixed-at", "pgd", 12, "kl"),
        ("mart", "pgd", 12, "kl"),
        ("trades", "pgd", 13, "kl"),
        ("calfat", "pgd", 10, "kl"),
        ("calfat", "pgd", 9, "pgd"),
    ],
)
def test_a_training_step_costs_as_many_passes_as_torch_counts(
    loss: str, attack: str, expected: int, inner: str
) -> None:
    changes = {
        "loss__name": loss,
        "loss__calfat_attack": inner,
        "attack__name": attack,
        "attack__steps": 3,
        "model__name": "resnet18",
    }
    config = parse_config(tiny_flat(**{**changes, "model__width": 8}))
    assert training_passes(loss, attack, 3, calfat_attack=inner) == expected
    model = make_model(config, 10).train()
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    step = make_method(config, model, 10).loss_for(labels.numpy())
    step(images, labels)  # the first one tries once whether the network may be folded
    with FlopCounter() as counter:
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
        "model cnn, width 8, small stem, down-sampling, relu, 10 classes, 32×32 pixels: 11,218 parameters, 1.63 MFLOP "
        "a forward pass (a multiply-add is two); " in doctor()
    )
    line = doctor(
        "model.name=resnet18", "model.width=64", "model.stem=imagenet", "loss.name=mixed-at", "attack.steps=7"
    )
    assert "imagenet stem" in line
    assert "11.18 million parameters" in line
    assert line.endswith("training by mixed-at, attack pgd-7: 1.48 GFLOP an image")  # 20 × 74 MFLOP
    assert doctor("attack.name=deepfool").endswith("attack deepfool: cannot be predicted")
    line = doctor("model.name=resnet18", "model.width=64", "model.stem=imagenet", "attack.steps=7", "method.name=moon")
    assert line.endswith("training by mixed-at, method moon, attack pgd-7: 1.78 GFLOP an image")  # 24 × 74 MFLOP
    for place in (tmp_path / part / name for part in ("train", "test") for name in ("cat", "dog", "owl")):
        place.mkdir(parents=True)
        (place / "0.png").touch()
    line = doctor("data.name=folder", f"data.root={tmp_path}", "data.image-size=64", "model.downsample=false")
    assert "no down-sampling, relu, 3 classes, 64×64 pixels" in line
