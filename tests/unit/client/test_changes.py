"""What a client lets a server change in a round."""

from typing import Any

import pytest

from client.changes import changed
from common.config.flat import Flat
from common.errors import FedShieldError

RUN: Flat = {
    "train.learning-rate": 0.1,
    "train.local-epochs": 2,
    "attack.name": "fgsm",
    "attack.steps": 1,
    "attack.step-255": 10.0,
    "method.name": "fedavg",
    "method.prox-mu": 0.01,
    "results.dir": "runs",
}


def test_less_work_and_a_longer_attack_are_taken() -> None:
    wanted = {"train.learning-rate": 0.05, "attack.name": "pgd", "attack.steps": 7, "attack.step-255": 2.0}
    assert changed(RUN, wanted) == {**RUN, **wanted}
    assert changed(RUN, {"method.name": "fedprox", "method.prox-mu": 0.1})["method.name"] == "fedprox"
    assert changed(RUN, {}) == RUN


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.learning-rate", 0.2),
        ("train.learning-rate", 0.0),
        ("train.learning-rate", float("nan")),
        ("train.learning-rate", "0.05"),
        ("train.local-epochs", 3),
        ("train.local-epochs", 0),
        ("train.local-epochs", True),
        ("attack.steps", 101),
        ("attack.name", "evil.py:attack"),
        ("attack.name", "none"),
        ("method.name", "evil.py:Method"),
        ("method.prox-mu", float("inf")),
        ("loss.name", "evil.py:loss"),
        ("results.dir", "/"),
        ("unheard-of", 1),
    ],
)
def test_anything_else_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(FedShieldError, match=rf"^the server asks for {key} = .* does not take such a change$"):
        changed(RUN, {key: value})


def test_a_method_that_keeps_something_is_not_replaced() -> None:
    with pytest.raises(FedShieldError, match="where the run has 'scaffold'"):
        changed({**RUN, "method.name": "scaffold"}, {"method.name": "fedprox"})
