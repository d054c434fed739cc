"""What is said of a configuration before the first round."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config.flat import default_config
from common.config.schema import parse_config
from common.data.schemes import SCHEMES
from common.errors import FedShieldError
from common.factory import make_model, prepare_data, prepare_torch
from server.notices import tell_mirroring, tell_small_radius, tell_what_is_folded
from server.preflight import check_reach
from server.unread import tell_unread
from simulations.cli.options import resolve
from simulations.shipped import PRESETS, names_in
from simulations.studies.processes import gpus
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


L2 = {"attack.norm": "l2", "attack.epsilon-255": 127.5, "attack.steps": 3, "evaluate.attacks": "pgd-10"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"attack.step-255": 42.4},
            r"attack.step-255 = 42.4: .* 3 steps .* set attack.step-255=106.2 ",
        ),
        ({"attack.step-255": 42.5, "evaluate.step-255": 12.7}, "evaluate.step-255 = 12.7: .* 10 steps .*=31.88 "),
        ({"attack.step-255": 42.5, "evaluate.final-attacks": "cw-2x5"}, "evaluate.step-255 = 13: .* 2 steps .*=159.4 "),
        ({"attack.name": "mixture", "attack.mixture": "fgsm:1,bim:1"}, "attack.step-255 = 4: "),
        ({"attack.name": "mixture", "attack.mixture": "fgsm:1,deepfool:1"}, ""),  # neither has steps of this size
        ({"attack.step-255": 42.5}, ""),
        ({"attack.norm": "linf"}, ""),
    ],
)
def test_steps_that_do_not_reach_the_l2_radius_are_refused(changes: dict[str, str | float], said: str) -> None:
    config = parse_config(tiny_flat() | L2 | {"evaluate.step-255": 13.0, "evaluate.final-attacks": "fgsm"} | changes)
    if said:
        with pytest.raises(FedShieldError, match=said):
            check_reach(config, training=True)
    else:
        check_reach(config, training=True)


def test_an_evaluation_does_not_look_at_the_steps_of_training() -> None:
    config = parse_config(tiny_flat() | L2 | {"evaluate.step-255": 50.0, "evaluate.final-attacks": "pgd-3"})
    check_reach(config, training=False)
    with pytest.raises(FedShieldError, match=r"attack\.step-255 = 4: "):
        check_reach(config, training=True)


@pytest.mark.parametrize(("norm", "epsilon", "told"), [("l2", 8.0, True), ("l2", 64.0, False), ("linf", 8.0, False)])
def test_an_l2_radius_that_fits_linf_is_told(
    norm: str, epsilon: float, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tell_small_radius(parse_config(tiny_flat() | {"attack.norm": norm, "attack.epsilon-255": epsilon}))
    assert ["attack.epsilon-255 = 127.5" in line for line in caplog.messages] == [True] * told


@pytest.mark.parametrize(
    ("norm", "epsilon", "meant"),
    [
        ("linf", 8 / 255, "did you mean 8, for 8/255 (Linf)?"),
        ("linf", 0.3, "did you mean 76, for 76/255 (Linf)?"),
        ("l2", 0.25, "did you mean 63.75, for 0.25 (L2; 63.75/255)?"),
        ("linf", 0.0, ""),
        ("linf", 0.5, ""),
    ],
)
def test_a_radius_in_another_unit_is_doubted(
    norm: str, epsilon: float, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    tell_small_radius(parse_config(tiny_flat() | {"attack.norm": norm, "attack.epsilon-255": epsilon}))
    assert [meant in line for line in caplog.messages] == [True] * bool(meant)


@pytest.mark.parametrize(
    ("key", "step", "meant"),
    [
        ("evaluate.step-255", 2 / 255, "evaluate.step-255 = 0.00784314: in 1/255 of the pixel range, so 10 steps"),
        ("attack.step-255", 2 / 255, "attack.step-255 = 0.00784314: in 1/255 of the pixel range, so 7 steps"),
        ("evaluate.step-255", 1.0, ""),
    ],
)
def test_steps_in_another_unit_are_doubted(key: str, step: float, meant: str, caplog: pytest.LogCaptureFixture) -> None:
    others = {"attack.steps": 7, "evaluate.attacks": "", "evaluate.final-attacks": "fgsm,pgd-20,cw-10", key: step}
    check_reach(parse_config(tiny_flat() | {"attack.name": "pgd", "attack.step-255": 2.0} | others), training=True)
    assert [meant in line for line in caplog.messages] == [True] * bool(meant)


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"natural"}))
def test_settings_of_other_partition_schemes_are_told(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    base = {
        "partition.scheme": scheme,
        "federation.clients": 10 if scheme in {"paper", "distribution"} else 5,
        "data.max-examples": 800,
    }
    base |= {"size": {"partition.sizes": "1,1,1,1,1"}, "pathological": {"partition.classes-per-client": 10}}.get(
        scheme, {}
    )
    others = {
        "partition.alpha": 0.11,
        "partition.classes-per-client": 9,
        "partition.sizes": "1,1,1,2,2",
        "partition.sigma": 0.25,
    }
    for key, value in others.items():
        first, second = (parse_config(tiny_flat() | base | change) for change in ({}, {key: value}))
        divided = [[shard.tolist() for shard in prepare_data(config)[1].shards] for config in (first, second)]
        caplog.clear()
        caplog.set_level("INFO")
        tell_unread(second)
        told = [line for line in caplog.messages if line.startswith(f"{key} = {value} has no effect")]
        assert bool(told) == (divided[0] == divided[1]), key


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"partition.scheme": "iid"}, ": partition.scheme = iid does not read it"),
        ({"partition.scheme": "natural", "data.name": "folder"}, ": data.name = folder does not read it"),
        ({"partition.scheme": "natural", "data.name": "hf:pets"}, ""),
    ],
)
def test_a_column_that_nothing_reads_is_told(
    changes: dict[str, str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tell_unread(parse_config(tiny_flat() | {"partition.by": "site"} | changes))
    assert caplog.messages == ([f"partition.by = site has no effect{told}"] if told else [])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("tpu", "FEDSHIELD_DEVICE = tpu: unknown; allowed: cpu, mps"),
        *([] if torch.backends.mps.is_available() else [("mps", "torch finds no GPU of Apple's on this machine")]),
    ],
)
def test_a_device_that_is_not_there_is_refused(asked: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSHIELD_DEVICE", asked)
    with pytest.raises(FedShieldError, match=told):
        prepare_torch(1)


def test_the_cpu_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert gpus() == ["0", "1"]
    monkeypatch.setenv("FEDSHIELD_DEVICE", "cpu")
    assert prepare_torch(1) == torch.device("cpu")
    assert gpus() == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"repair.sharing-budget": 0.9}, "repair.enabled = false"),
        ({"privacy.delta": 0.5}, "privacy.noise-multiplier = 0"),
        ({"byzantine.strength": 2.0}, "byzantine.clients = 0"),
        ({"sharing.noise": 0.3}, "sharing.kind = images does not read it"),
        ({"results.prometheus-host": "0.0.0.0"}, "results.prometheus-port = 0"),
        ({"method.prox-mu": 0.5}, "method.name = fedavg does not read it"),
        ({"method.prox-mu": 0.5, "method.name": "fedprox"}, ""),
        ({"train.average-decay": 0.5, "repair.enabled": True}, ""),
        ({"loss.beta": 2.0, "loss.name": "own.py:loss"}, ""),
    ],
)
def test_a_key_that_another_switches_off_is_told(
    changes: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tell_unread(parse_config(default_config() | changes))
    (key, value), *_ = changes.items()
    assert caplog.messages == ([f"{key} = {value} has no effect: {why}"] if why else [])


def test_no_preset_sets_a_key_without_effect(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for name in names_in(PRESETS):
        tell_unread(parse_config(resolve(Path(name), [], default_config())))
    assert caplog.messages == []


def test_without_clients_their_privacy_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tell_unread(parse_config(default_config() | {"privacy.epsilon-max": 3.0, "sharing.noise": 0.3}), federated=False)
    assert caplog.messages == ["privacy.epsilon-max = 3.0 has no effect: there are no clients here"]
