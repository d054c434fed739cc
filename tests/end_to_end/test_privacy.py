"""Private federations: the same bits everywhere and after an interruption, an end in order when epsilon is spent."""

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import FedShieldError
from common.factory import make_model
from server.aggregation.accounting import epsilon
from server.run_directory.reader import read_metrics, read_summary
from simulations.cli.main import app
from simulations.engine.process_executor import Processes
from simulations.export.formats import export_run
from simulations.reports.html.run_page import run_page
from tests.helpers.runs import figures, run, run_in_parts, run_with, same, weights
from tests.helpers.settings import PRIVATE, tiny_config


def spent(run_dir: Path) -> list[dict]:
    return [line["privacy"] for line in read_metrics(run_dir)]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("private"), "run", **PRIVATE)


def test_a_private_run_says_what_it_spends(private: Path) -> None:
    config, told = tiny_config(**PRIVATE), spent(private)
    assert [each["epsilon"] for each in told] == [epsilon(config, number) for number in (1, 2, 3)]
    assert told[0]["clipping-norm"] == 1.0
    assert len({each["clipping-norm"] for each in told}) == 3
    assert read_summary(private)["privacy"] == told[-1]
    facts = {fact.label: (fact.value, fact.detail) for fact in run_page(private).facts}
    assert facts["privacy"][0] == f"epsilon = {told[-1]['epsilon']:.3g}"
    assert "delta = 1e-05" in facts["privacy"][1]
    assert "who knows the seed can take it out" in facts["privacy"][1]
    _, card = export_run(private, "safetensors")
    assert f"epsilon = {told[-1]['epsilon']:.3g} (client-level" in card.read_text()


def test_other_processes_and_an_interruption_give_the_same_bits(private: Path, tmp_path: Path) -> None:
    other = run_with(Processes, tmp_path, "processes", **PRIVATE)
    parts = run_in_parts(tmp_path, lambda reply: reply.server_round == 3, **PRIVATE)
    for path in (other, parts):
        assert same(weights(path), weights(private))
        assert figures(path) == figures(private)
        assert spent(path) == spent(private)


def test_without_noise_nothing_of_this_is_there(tmp_path: Path) -> None:
    path = run(tmp_path, "plain", federation__rounds=1, privacy__clipping_norm=0.1, privacy__delta=1e-7)
    assert "privacy" not in read_metrics(path)[0]
    assert "privacy" not in read_summary(path)
    plain = run(tmp_path, "default", federation__rounds=1)
    assert same(weights(path), weights(plain))


def test_a_run_ends_when_its_budget_is_spent_and_goes_on_with_a_larger_one(
    tmp_path: Path, private: Path, caplog: pytest.LogCaptureFixture
) -> None:
    most = epsilon(tiny_config(**PRIVATE), 2) + 0.1
    with caplog.at_level(logging.INFO, "fedshield"):
        path = run(tmp_path, "short", **PRIVATE, privacy__epsilon_max=most)
    assert f"the run ends after round 2 of 3, at epsilon {most - 0.1:.3g}" in caplog.text
    assert (read_summary(path)["rounds"], len(read_metrics(path))) == (2, 2)
    assert read_metrics(path)[-1]["evaluation"] is not None  # as after any last round
    caplog.clear()
    with caplog.at_level(logging.INFO, "fedshield"):
        run(tmp_path, "ignored", **PRIVATE, privacy__epsilon_max=most, results__resume=str(path))
    assert "2 rounds are done, and privacy.epsilon-max allows no more; raise it to continue" in caplog.text
    less = {**PRIVATE, "privacy__epsilon_max": epsilon(tiny_config(**PRIVATE), 1) + 0.1}
    with pytest.raises(FedShieldError, match=rf"short has spent epsilon {most - 0.1:.3g} in its 2 rounds"):
        run(tmp_path, "ignored", **less, results__resume=str(path))
    run(tmp_path, "ignored", **PRIVATE, privacy__epsilon_max=0.0, results__resume=str(path))
    assert same(weights(path), weights(private))
    assert spent(path) == spent(private)


def test_statistics_of_batch_normalization_survive_the_noise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"privacy__noise_multiplier": 5.0, "federation__rounds": 1, "method__name": "fedbn"}
    with caplog.at_level(logging.INFO, "fedshield"):
        path = run(tmp_path, "loud", **{**settings, "method__name": "fedprox"}, strategy__name="fedavgm")
    assert "the noise falls on the statistics of batch normalization too" in caplog.text
    assert "strategy.update-limit = 5 has no effect" in caplog.text
    made = weights(path)
    assert all(array.isfinite().all() for array in made.values())
    assert all((array >= 0).all() for name, array in made.items() if name.endswith("running_var"))
    # Of what stays with the clients, the server's copy is still the one from the beginning.
    bn = run(tmp_path, "stays", **settings)
    first = make_model(tiny_config(**settings), 10).state_dict()
    moved = [name for name, array in weights(bn).items() if not array.equal(first[name])]
    assert moved
    assert not [name for name in moved if name.startswith("2.")]  # the first batch normalization


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("privacy.epsilon-max=2", "one round with privacy.noise-multiplier = 1 has epsilon 4.73"),
        ("privacy.noise-multiplier=1e-200", "privacy.noise-multiplier = 1e-200: hides nobody; set 0.001 or more"),
        ("strategy.name=median", "strategy.name = median: has no differential privacy"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(given: str, told: str, tmp_path: Path) -> None:
    options = ["--set", "privacy.noise-multiplier=1", "--set", given, "--set", f"results.dir={tmp_path}"]
    done = CliRunner().invoke(app, ["run", "--engine", "inprocess", *options])
    assert done.exit_code != 0
    assert told in str(done.exception or done.output)
    assert not list(tmp_path.glob("*/config.json"))


def test_a_stored_epsilon_that_is_no_number_is_found(private: Path, tmp_path: Path) -> None:
    line = json.loads((private / "metrics.jsonl").read_text().splitlines()[0])
    (tmp_path / "metrics.jsonl").write_text(json.dumps({**line, "privacy": {"epsilon": "low"}}) + "\n")
    with pytest.raises(Exception, match=r"privacy\.epsilon"):
        read_metrics(tmp_path)
