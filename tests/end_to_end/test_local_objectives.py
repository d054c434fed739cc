"""Methods with a local objective of their own: the same bits on every engine, and after an interruption."""

from pathlib import Path

import pytest

from simulations.engine.process_executor import Processes
from tests.helpers.runs import figures, run, run_in_parts, run_with, same, weights

# Each client trains in two of the four rounds, so that the second time it has a model of its own.
MOON = {
    "method__name": "moon",
    "loss__name": "pgd-at",
    "federation__rounds": 4,
    "federation__clients": 4,
    "federation__fraction": 0.5,
    "partition__scheme": "dirichlet",
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("reference"), "inprocess", **MOON)


def test_moon_gives_the_same_bits_in_processes(tmp_path: Path, reference: Path) -> None:
    path = run_with(Processes, tmp_path, "other", **MOON)
    assert same(weights(path), weights(reference))
    assert figures(path) == figures(reference)


def test_moon_goes_on_with_the_clients_own_models(tmp_path: Path, reference: Path) -> None:
    part = run_in_parts(tmp_path, lambda reply: reply.server_round == 3, **MOON)
    assert same(weights(part), weights(reference))
    assert figures(part) == figures(reference)


def test_moon_is_another_method(tmp_path: Path, reference: Path) -> None:
    plain = run(tmp_path, "plain", **{**MOON, "method__name": "fedavg"})
    assert not same(weights(plain), weights(reference))
