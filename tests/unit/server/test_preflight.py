"""What is said of a configuration before the first round."""

import logging

import pytest

from common.config.schema import parse_config
from common.factory import make_model
from server.preflight import tell_mirroring, tell_what_is_folded
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"data.name": "svhn"}, None),
        ({"data.name": "folder"}, "train.flip = auto: about half of the training images are mirrored"),
        ({"data.name": "split"}, "where a mirrored image is of another class (digits, text), set train.flip=off"),
        ({"data.name": "folder", "train.flip": "on"}, None),
        ({"data.name": "folder", "train.flip": "off"}, None),
        ({"data.name": "folder", "train.augment": False}, None),
        ({"train.flip": "on", "train.augment": False}, "train.flip = on has no effect: train.augment = false"),
    ],
)
def test_mirroring_that_nobody_has_chosen_is_told(
    changes: dict[str, str | bool], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fedshield"):
        tell_mirroring(parse_config(tiny_flat() | changes))
    assert [said in line for line in caplog.messages] == [True] if said else not caplog.messages
