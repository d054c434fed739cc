"""The networks: their size, their arithmetic, and that they normalize pixels themselves."""

import pytest
import torch
import torchvision
from torch import nn

from common.models.activations import ACTIVATIONS
from common.models.fast_network import fast_network
from common.models.networks import MODELS, build_model, group_norm


def build(name: str, width: int = 4, activation: str = "relu", downsample: bool = True, seed: int = 1) -> nn.Module:
    return build_model(name, 10, width, activation, downsample, seed)


def multiply_adds(model: nn.Module) -> int:
    """Count the convolutions' and linear layers' multiply-adds on one 32×32 image."""
    total = 0

    def count(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * output[0].numel()

    hooks = [
        layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    model.eval()(torch.rand(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return total


def test_resnet18_has_the_published_size() -> None:
    model = build("resnet18", width=64)
    # The CIFAR ResNet-18 of the field: 11,173,962 parameters, 0.56 GMAC.
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
    macs = multiply_adds(model)
    assert macs == pytest.approx(0.556e9, rel=0.01)
    without = multiply_adds(build("resnet18", width=64, downsample=False))
    assert without == pytest.approx(11.4e9, rel=0.01)
    assert without / macs == pytest.approx(20.6, abs=0.1)


def test_the_small_stem_keeps_the_size_of_the_image() -> None:
    model = build("resnet18", width=64)
    assert isinstance(model, nn.Sequential)
    assert model[:4](torch.rand(1, 3, 32, 32)).shape == (1, 64, 32, 32)
    assert sum(weight.numel() for weight in model[1:4].parameters()) == 3 * 3 * 3 * 64 + 2 * 64


def test_the_imagenet_stem_is_the_originals() -> None:
    model = build_model("resnet18", 10, 64, "relu", True, 1, "imagenet")
    assert isinstance(model, nn.Sequential)
    model.eval()
    images = torch.rand(1, 3, 32, 32)
    assert model[:4](images).shape == (1, 64, 16, 16)  # 7×7, stride 2
    assert model[:5](images).shape == (1, 64, 8, 8)  # max pooling
    assert model[:-2](images).shape == (1, 512, 1, 1)
    # torchvision's is another writing of the same network: with its weights, in order, it gives the same logits.
    theirs = torchvision.models.resnet18(num_classes=10)
    tensors = list(model.state_dict().values())
    assert [tensor.shape for tensor in tensors] == [tensor.shape for tensor in theirs.state_dict().values()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors, strict=True)))
    assert torch.allclose(model(images), theirs.eval()(model[0](images)), atol=1e-5)


def test_cnn2_has_the_published_size() -> None:
    # apple/pfl-research, benchmarks/model/pytorch/cnn.py: simple_cnn for 32×32 images and ten classes.
    assert sum(parameter.numel() for parameter in build("cnn2", width=32).parameters()) == 1_626_442
    assert build("cnn2", downsample=False)(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_takes_part_in_every_model(name: str, activation: str) -> None:
    model = build(name, activation=activation)
    pixels = torch.rand(2, 3, 32, 32, requires_grad=True)
    logits = model(pixels)
    assert logits.shape == (2, 10)
    (gradient,) = torch.autograd.grad(logits.sum(), pixels)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0
    kinds = {type(module) for module in model.modules()}
    assert {type(kind.make()) for kind in ACTIVATIONS.values()} & kinds == {type(ACTIVATIONS[activation].make())}


def test_normalization_is_inside_and_not_part_of_the_state() -> None:
    model = build("cnn")
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert torch.equal(model[0](mean), torch.zeros(1, 3, 32, 32))
    assert not any("mean" in name and "running" not in name for name in model.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_fixes_the_weights_and_nothing_else_moves_them(name: str) -> None:
    torch.manual_seed(0)
    first = build(name).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)  # building a model leaves the global generator alone
    second, other = build(name).state_dict(), build(name, seed=2).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("size", [16, 48, 64])
def test_other_image_sizes_work(size: int) -> None:
    for name in ("cnn", "resnet18"):
        assert build(name)(torch.rand(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("name", ["cnn", "resnet18"])
def test_group_normalization_leaves_nothing_that_is_no_weight(name: str) -> None:
    batch, group = (build_model(name, 10, 4, "relu", True, 1, norm=norm) for norm in ("batch", "group"))
    assert [*group.state_dict()] == [key for key, _ in group.named_parameters()]
    # The same weights in the same places: only statistics and counters are gone.
    assert {key: weight.shape for key, weight in group.named_parameters()} == {
        key: weight.shape for key, weight in batch.named_parameters()
    }
    assert all(torch.equal(weight, group.state_dict()[key]) for key, weight in batch.named_parameters())
    images = torch.rand(3, 3, 32, 32)
    alone = torch.cat([group(images[place : place + 1]) for place in range(3)])
    assert torch.allclose(group(images), alone, atol=1e-5)  # each image by itself, and so in training mode as in eval
    assert torch.equal(group(images), group.eval()(images))
    assert fast_network(group) is None
    assert fast_network(batch) is not None


def test_group_normalization_by_hand() -> None:
    # Two groups of one channel: (1, 3) has mean 2 and variance 1, (0, 4) mean 2 and variance 4.
    values = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])
    assert torch.allclose(group_norm(2)(values).flatten(), torch.tensor([-1.0, 1.0, -1.0, 1.0]), atol=1e-4)
    assert group_norm(3)(values.repeat(1, 2, 1, 1)[:, :3]).shape == (1, 3, 1, 2)  # an odd number has one group
