"""A user's own federated method: a mistake in a hook is one line, and what it keeps is there after an interruption."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import FedShieldError
from common.factory import make_federated_method, training_plan
from common.methods.checks import check_plan, check_turn
from common.methods.method import Turn
from server.run_directory.checkpoint import load_kept
from server.run_directory.index import read_checkpoint
from simulations.studies.trial import try_out
from tests.helpers.runs import run, same, weights
from tests.helpers.settings import tiny_config

HEAD = """import torch
from common.methods.method import Method
from common.training.pull import LinearPull

class It(Method):
"""


def write(folder: Path, body: str) -> str:
    (folder / "mine.py").write_text(HEAD + "".join(f"    {line}\n" for line in body.splitlines()))
    return f"{folder / 'mine.py'}:It"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("def before(self, turn):\n    turn.model = 3", "before replaces turn.model; change its weights in place"),
        ("def before(self, turn):\n    turn.plan = 3", "before sets turn.plan to int; use dataclasses.replace on it"),
        ("def pull(self, turn):\n    return 3", "pull returns int; return a function, a LinearPull or None"),
        (
            "def pull(self, turn):\n    return lambda names, weights, gradients: [g.sum() for g in gradients]",
            "the function of pull gives other gradients than one of each weight's shape",
        ),
        (
            "def pull(self, turn):\n    return lambda names, weights, gradients: gradients[1:]",
            "the function of pull gives other gradients than one of each weight's shape",
        ),
        (
            "def pull(self, turn):\n    return LinearPull(offset={turn.weights[0]: torch.tensor(1.0)})",
            r"pull gives .*weight as \(\), expected \(\d+, ",
        ),
        (
            "def after(self, turn):\n    turn.kept['x'] = torch.ones(1)\n    return {}",
            "turn.kept is filled, but keeps is",
        ),
        ("def sends(self, server):\n    return {'x': 'y'}", "sends gives no dictionary of tensors"),
        (
            "def combine(self, before, mean, beside, server):\n    server['x'] = 'y'\n    return mean",
            "combine, in what the server keeps, gives no dictionary of tensors",
        ),
        ("def combine(self, before, mean, beside, server):\n    return None", "combine gives no dictionary of tensors"),
        ("personal = True", "has personal = True, so clients keep something; set keeps = True too"),
        ("def stays(self, model):\n    return '11.bias'", "stays returns '11.bias'; return a list of names"),
        ("def beside_names(self, names, weights):\n    return ['x']", "beside_names names x, which the network does"),
        ("def beside_names(self, names, weights):\n    return 1 / 0", ".*, line 7: ZeroDivisionError"),
        ("def shares(self, replies, server_round):\n    return None", "shares returns None; return 10 numbers of 0 or"),
        ("def train(self, turn, fit):\n    return fit(3)", "trains by int; use dataclasses.replace on turn.plan"),
    ],
)
def test_a_mistake_in_a_hook_is_one_line(tmp_path: Path, body: str, told: str) -> None:
    name = write(tmp_path, body)
    with pytest.raises(FedShieldError, match=re.escape(f"method.name = {name}: ") + told) as caught:
        run(tmp_path, "run", method__name=name, federation__rounds=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kept": {"own/x": torch.ones(1)}}, "turn.kept has own/x; choose names that do not begin with own/ or tuned/"),
        ({"kept": {3: torch.ones(1)}}, "turn.kept gives no dictionary of tensors by name"),
        ({"kept": {"x": torch.ones(1).bfloat16()}}, "turn.kept gives x as torch.bfloat16, which no message carries"),
        ({"kept": {"x": torch.ones(1).to_sparse()}}, "turn.kept gives x as torch.sparse_coo, which no message carries"),
        ({"own": {"x": torch.ones(1)}}, "turn.own gives other arrays than it must, first at x"),
    ],
)
def test_what_a_client_cannot_keep_is_told_in_its_turn(fields: dict[str, Any], told: str) -> None:
    method, plan = make_federated_method(tiny_config(method__name="ditto")), training_plan(tiny_config(), 1, 1, 1)
    turn = Turn(0, 1, nn.Linear(1, 1), ["weight"], {"weight": torch.ones(1, 1)}, {}, plan, **fields)
    with pytest.raises(FedShieldError, match=re.escape(f"method.name = ditto: {told}")):
        check_turn(method, {}, turn)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"epochs": -1}, "trains with epochs = -1; set a whole number, 0 or more"),
        ({"batch_size": 2.0}, "trains with batch_size = 2.0; set a whole number, 1 or more"),
        ({"frozen": frozenset(["weight"])}, "trains with every weight in frozen; leave one out"),
    ],
)
def test_a_plan_that_cannot_be_trained_by_is_told(change: dict[str, Any], told: str) -> None:
    method, plan = make_federated_method(tiny_config(method__name="ditto")), training_plan(tiny_config(), 1, 1, 1)
    turn = Turn(0, 1, nn.Linear(1, 1), ["weight"], {"weight": torch.ones(1, 1)}, {}, plan)
    with pytest.raises(FedShieldError, match=re.escape(f"method.name = ditto: {told}")):
        check_plan(method, replace(plan, **change), turn)


def test_a_method_that_changes_what_it_received_reaches_no_other_client(tmp_path: Path) -> None:
    name = write(tmp_path, "def after(self, turn):\n    for array in turn.received.values():\n        array.zero_()")
    assert same(weights(run(tmp_path, "own", method__name=name)), weights(run(tmp_path, "plain")))


def test_what_the_server_keeps_under_any_name_is_there_again(tmp_path: Path) -> None:
    body = "def combine(self, before, mean, beside, server):\n"
    body += "    server['optimizer/x'] = server.get('optimizer/x', torch.zeros(())) + 1\n    return mean"
    name = write(tmp_path, body)
    part = run(tmp_path, "part", method__name=name, federation__rounds=1)
    again = {"method__name": name, "federation__rounds": 3, "results__resume": str(part)}
    whole = run(tmp_path, "ignored", **again)
    kept = load_kept(whole, read_checkpoint(whole) or {}, "server")
    assert {place: float(array) for place, array in kept.items()} == {"method/optimizer/x": 3.0}


def test_a_study_tries_a_method_before_it_runs_anything(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import no_such_package\n")
    with pytest.raises(FedShieldError, match=r"^method.name = .*mine.py:It: .*, line 1: ModuleNotFoundError: "):
        try_out(tiny_config(method__name=f"{tmp_path / 'mine.py'}:It"), federation=True)
