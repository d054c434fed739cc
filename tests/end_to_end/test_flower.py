"""Flower's own command: `flwr run` on its Ray engine gives the numbers of `fedshield run`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.paths import ROOT
from tests.helpers.flower import Flower
from tests.helpers.runs import figures, run, same, weights
from tests.helpers.settings import DIVERGES, PRIVATE, TINY


@pytest.fixture(scope="module")
def flower() -> Iterator[Flower]:
    """Flower with a home and a SuperLink of the test's own."""
    with Flower(timeout=400) as found:
        found.start()
        yield found
    assert found.pids() == []


def test_flwr_run_gives_the_same_numbers(tmp_path: Path, flower: Flower) -> None:
    # A method whose clients keep something: Flower's engine has to give each client what is its own.
    settings = {**TINY, "method.name": "scaffold", "results.dir": str(tmp_path), "results.name": "flower"}
    flower.run(ROOT, 10, 1, settings)
    assert f"Run directory: {tmp_path}/flower" in flower.output
    assert "round 2/2  natural" in flower.output
    reference = run(tmp_path, "inprocess", method__name="scaffold")
    assert same(weights(tmp_path / "flower"), weights(reference))
    assert figures(tmp_path / "flower") == figures(reference)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{**DIVERGES, "federation__rounds": 5}, PRIVATE], ids=["repair", "privacy"])
def test_flwr_run_repairs_and_adds_noise_with_the_same_bits(
    tmp_path: Path, flower: Flower, changes: dict[str, Any]
) -> None:
    settings = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    settings = {**TINY, **settings, "privacy.noise": "seeded"}  # which is secret for real clients
    flower.run(ROOT, 10, 1, {**settings, "results.dir": str(tmp_path), "results.name": "flower"})
    here = run(tmp_path, "here", **changes)
    assert same(weights(tmp_path / "flower"), weights(here))
    assert figures(tmp_path / "flower") == figures(here)


@pytest.mark.slow
def test_too_few_supernodes_end_with_one_line_that_helps(tmp_path: Path, flower: Flower) -> None:
    settings = {**TINY, "results.dir": str(tmp_path), "federation.node-wait-seconds": 2}
    with pytest.raises(RuntimeError, match="finished:failed"):
        flower.run(ROOT, 2, 1, settings)
    expected = (
        "federation.clients = 10, but 2 nodes are there after 2 s; start a SuperNode for each client, or simulate them "
        'with: flwr run . --stream --federation-config "num-supernodes=10 client-resources-num-cpus=1"'
    )
    assert expected in flower.output
    assert "Traceback" not in flower.output
    assert list(tmp_path.iterdir()) == []
