"""What is said of a configuration before the first round."""

import logging

import pytest

from common.config.schema import parse_config
from common.factory import make_model
from server.preflight import tell_what_is_folded
from tests.helpers.settings import tiny_flat


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.name": "cnn"}, None),
        ({"model.name": "resnet18", "model.width": 4}, None),
        ({"model.name": "cnn2"}, "no effect: model.name = cnn2 has no batch normalization that follows a convolution"),
        # Three shortcuts are an nn.Sequential; the other 17 pairs are attributes of a block.
        ({"model.name": "torchvision:resnet18"}, "folds 3 of the 20 batch normalizations of torchvision:resnet18"),
        ({"attack.name": "none", "model.name": "cnn2"}, None),
        ({"model.name": "cnn2", "attack.fast": False}, None),
    ],
)
def test_a_fast_attack_that_is_not_faster_is_told(
    changes: dict[str, str | int | bool], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    config = parse_config(tiny_flat() | {"attack.fast": True} | changes)
    with caplog.at_level(logging.INFO, "fedshield"):
        tell_what_is_folded(config, make_model(config, 10))
    assert [said in line for line in caplog.messages] == [True] if said else not caplog.messages
