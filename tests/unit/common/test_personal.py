"""Which arrays stay with a client."""

import pytest
import torch
from torch import nn

from common.errors import FedShieldError
from common.factory import make_federated_method
from common.methods.checks import names_that_stay
from common.methods.method import Method
from common.models.networks import build_model
from tests.helpers.settings import tiny_config


def stay(name: str, model: nn.Module) -> frozenset[str]:
    return names_that_stay(make_federated_method(tiny_config(method__name=name)), model)


def network(name: str, activation: str = "relu") -> nn.Module:
    return build_model(name, 10, 2, activation, True, seed=1)


def test_batch_normalization_stays_with_its_statistics_and_counters() -> None:
    places = ("2", "5", "8")  # of the cnn: pixels, then three times convolution, normalization, activation
    arrays = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert stay("fedbn", network("cnn")) == {f"{place}.{array}" for place in places for array in arrays}
    model = network("torchvision:resnet18")
    assert stay("fedbn", model) == {name for name in model.state_dict() if ".bn" in name or ".downsample.1." in name}


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_the_last_layer_stays(activation: str) -> None:
    assert stay("fedper", network("cnn", activation)) == {"11.weight", "11.bias"}
    assert stay("fedper", network("cnn2")) == {"12.weight", "12.bias"}
    assert stay("fedper", network("torchvision:vgg11_bn")) == {"1.classifier.6.weight", "1.classifier.6.bias"}
    assert stay("fedavg", network("cnn")) == frozenset()


def test_a_network_without_such_arrays_is_refused_in_one_line() -> None:
    with pytest.raises(FedShieldError, match=r"method.name: the network has no batch normalization .* choose another"):
        stay("fedbn", network("cnn2"))
    with pytest.raises(FedShieldError, match=r"no layer that could be shared beside its last one"):
        stay("fedper", nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))


def test_a_users_method_that_names_other_arrays_is_refused_in_one_line() -> None:
    class Own(Method):
        keeps = personal = True
        names = ("0.weight",)

        def stays(self, model: nn.Module) -> tuple[str, ...]:
            return self.names

    model, own = nn.Sequential(nn.Linear(3, 2)), Own(make_federated_method(tiny_config()).context)
    assert names_that_stay(own, model) == {"0.weight"}
    own.names = ("head.weight",)
    with pytest.raises(FedShieldError, match=r"stays names head.weight, which the network does not have"):
        names_that_stay(own, model)
    own.names, own.personal = ("0.weight",), False
    with pytest.raises(FedShieldError, match=r"set keeps = True and personal = True"):
        names_that_stay(own, model)
    assert torch.is_tensor(model.state_dict()["0.weight"])
