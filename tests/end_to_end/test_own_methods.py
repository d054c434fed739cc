"""A user's own federated method: a mistake in a hook is one line, and what it keeps is there after an interruption."""

import re
from pathlib import Path

import pytest

from common.errors import FedShieldError
from server.run_directory.checkpoint import load_kept, read_checkpoint
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
    ],
)
def test_a_mistake_in_a_hook_is_one_line(tmp_path: Path, body: str, told: str) -> None:
    name = write(tmp_path, body)
    with pytest.raises(FedShieldError, match=re.escape(f"method.name = {name}: ") + told) as caught:
        run(tmp_path, "run", method__name=name, federation__rounds=1)
    assert "\n" not in str(caught.value)


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
