"""The examples in docstrings, run with the names that their modules have."""

import doctest
from importlib import import_module

import pytest

from common.paths import ROOT

FILES = [
    path
    for top in ("common", "client", "fedshield", "server", "simulations")
    for path in sorted((ROOT / top).rglob("*.py"))
]
SHOWING = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if ">>> " in path.read_text()]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("module", SHOWING)
def test_examples_give_what_they_show(module: str) -> None:
    failed, tried = doctest.testmod(import_module(module))
    assert tried > 0
    assert failed == 0


def test_a_reader_has_an_example_where_she_starts() -> None:
    start = {"common.attacks.library", "common.attacks.threat", "common.evaluation.evaluate", "common.training.trainer"}
    assert start <= set(SHOWING)
