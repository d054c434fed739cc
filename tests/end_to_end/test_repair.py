"""Runs that are repaired: what is done, the same bits on other engines and when they go on, and what is refused."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import FedShieldError
from server.repair import remedies
from server.run_directory.checkpoint import load_kept
from server.run_directory.index import UNAVERAGED, read_checkpoint
from server.run_directory.reader import read_metrics, read_summary
from simulations.engine.byzantine import ByzantineExecutor
from simulations.engine.executor import InProcess
from simulations.engine.local_grid import Reply
from simulations.engine.process_executor import Processes
from simulations.replay import replay
from simulations.reports.html.page import Table
from simulations.reports.html.trouble_blocks import troubles
from tests.helpers.runs import run, run_in_parts, run_with, same, weights
from tests.helpers.settings import DIVERGES, tiny_config


def _at(stop: int, reply: Reply) -> bool:
    return reply.server_round == stop


def actions(run_dir: Path) -> list[tuple[int, str, str]]:
    """Return what was done: after which round, what, and against what."""
    return [
        (line["round"], each["action"], each["trouble"]) for line in read_metrics(run_dir) for each in line["repairs"]
    ]


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs"), "repaired", federation__rounds=6, **DIVERGES)


def test_a_run_that_diverges_goes_back_to_where_it_was_good(repaired: Path) -> None:
    assert actions(repaired) == [(4, "roll-back", "divergence")]
    losses, norms = ([line[key] for line in read_metrics(repaired)] for key in ("loss", "update-norm"))
    assert losses[4] < losses[3] / 2
    assert norms[4] < norms[0] / 100  # small steps, and from a model that has not gone wrong


def test_the_same_repairs_with_the_same_bits_in_other_processes_and_when_the_run_goes_on(
    repaired: Path, tmp_path: Path
) -> None:
    elsewhere = run_with(Processes, tmp_path, "elsewhere", federation__rounds=6, **DIVERGES)
    assert same(weights(elsewhere), weights(repaired))
    for stop in (4, 5):  # in the last round before the repair, and in the first one after it
        parts = run_in_parts(tmp_path / str(stop), partial(_at, stop), federation__rounds=6, **DIVERGES)
        assert same(weights(parts), weights(repaired))
        assert actions(parts) == actions(repaired)


def test_a_round_that_would_end_the_run_is_repaired_as_long_as_something_is_left_to_do(tmp_path: Path) -> None:
    far_too_high = {**DIVERGES, "train__learning_rate": 30.0, "strategy__update_limit": 30.0}
    path = run(tmp_path, "far", federation__rounds=6, **far_too_high)
    lines = read_metrics(path)
    failed = next(line for line in lines if "failed" in line)
    number = failed["round"]
    assert failed["failed"].startswith(f"round {number}: ")
    assert "loss" not in failed
    assert actions(path) == [(number, "roll-back", "divergence")]
    assert [("failed" in line) for line in lines[number:]] == [False] * (6 - number)


def test_a_run_with_nothing_left_to_do_ends_in_the_same_round_each_time(tmp_path: Path) -> None:
    far_too_high = {**DIVERGES, "train__learning_rate": 30.0, "strategy__update_limit": 30.0, "repair__max_actions": 0}
    with pytest.raises(FedShieldError, match=r"valid replies of 10, federation\.min-fraction asks") as first:
        run(tmp_path, "spent", federation__rounds=6, **far_too_high)
    before = read_metrics(tmp_path / "spent")
    again = {"results__resume": str(tmp_path / "spent"), "federation__rounds": len(before) + 1}
    with pytest.raises(FedShieldError) as second:  # in the last round too
        run(tmp_path, "spent", **far_too_high, **again)
    assert str(second.value) == str(first.value)
    assert read_metrics(tmp_path / "spent") == before


def test_the_report_shows_what_was_done_and_why(repaired: Path) -> None:
    (told,) = [block for block in troubles(read_metrics(repaired), "round") if "repair" in getattr(block, "header", [])]
    assert isinstance(told, Table)
    ((action, trouble, why, number),) = told.rows
    assert (action, trouble, number) == ("roll-back", "divergence", "4")
    assert why.startswith("go back to the last good model, and train at 0.001 of the learning rate: the training loss")


def test_a_healthy_run_has_the_same_bits_with_repair(tmp_path: Path) -> None:
    healthy = run(tmp_path, "healthy", federation__rounds=2)
    watched = run(tmp_path, "watched", federation__rounds=2, repair__enabled=True)
    assert same(weights(healthy), weights(watched))
    assert actions(watched) == []


def test_replay_shows_what_repair_would_have_done(tmp_path: Path, repaired: Path) -> None:
    without = run(tmp_path, "without", federation__rounds=5, **{**DIVERGES, "repair__enabled": False})
    would = [line.strip() for line in replay(without) if "repair" in line]
    assert len(would) == 1
    assert would[0].startswith("repair would do (roll-back): go back to the last good model, and train at 0.001 of")
    assert [line for line in replay(repaired) if "repair does (roll-back)" in line]
    assert not [line for line in replay(repaired) if "other troubles" in line]


def test_replay_promises_nothing_where_a_run_could_not_be_repaired(tmp_path: Path) -> None:
    off = {**DIVERGES, "repair__enabled": False, "method__name": "scaffold"}
    lines = [line.strip() for line in replay(run(tmp_path, "without", federation__rounds=3, **off))]
    assert lines[0].startswith("Repair could do nothing in this run: method.name = scaffold keeps arrays of its own")
    assert not [line for line in lines if line.startswith("repair ")]


def test_a_repaired_run_goes_on_with_the_clients_that_it_could_set_aside(repaired: Path) -> None:
    with pytest.raises(FedShieldError, match=r"federation\.min-fraction = 1\.0 there, 0\.8 now"):
        run(repaired.parent, "", results__resume=str(repaired), federation__min_fraction=0.8, **DIVERGES)
    with pytest.raises(FedShieldError, match=r"diagnosis\.examples = 100 there, 20 now"):
        run(repaired.parent, "", results__resume=str(repaired), diagnosis__examples=20, **DIVERGES)


def test_a_liar_is_set_aside_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {"data__max_examples": 600, "partition__scheme": "iid", "model__width": 4, "federation__rounds": 5}
    lies = {"byzantine__clients": 1, "federation__min_fraction": 0.8, "evaluate__final_attacks": ""}
    changes = {**more, **lies, "repair__enabled": True, "repair__quarantine": 2}
    liars = ByzantineExecutor(InProcess(), tiny_config(**changes))
    with caplog.at_level(logging.WARNING, "fedshield"):
        path = run(tmp_path, "liar", liars, **changes)
    (liar,) = map(str, liars.liars)
    first = next(number for number, name, _ in actions(path) if name == "quarantine")
    there = {line["round"]: liar in line["clients"] for line in read_metrics(path)}
    assert [there[number] for number in range(1, first + 3)] == [True] * first + [False] * 2
    assert (first + 2, "probation", "harmful-client") in actions(path)
    assert there.get(first + 3, True)
    assert [line for line in caplog.messages if line.startswith(f"repair: after round {first}, against harmful-client")]


def test_more_of_the_pool_is_sent_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies, "REMEDIES", {"divergence": (remedies.share_more,)})
    monkeypatch.setattr("server.repair.treat.REMEDIES", remedies.REMEDIES)
    budget = {"repair__sharing_step": 0.2, "repair__sharing_budget": 0.5, "repair__cool_down": 0}
    path = run(tmp_path, "more", federation__rounds=6, **{**DIVERGES, **budget})
    # Of the pool's 40 images all clients have 16 at first, then 24 (0.6 is cut to 0.5: 20).
    images = [line["clients"]["0"]["num-examples"] for line in read_metrics(path)]
    assert [number - images[0] for number in images] == [0, 0, 0, 0, 4, 4]
    assert read_metrics(path)[0]["signals"]["n"] == 20  # none of those that may be sent is looked at


def test_a_run_that_repair_ends_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.repair.treat.REMEDIES", {"divergence": (remedies.end,)})
    path = run(tmp_path, "ended", federation__rounds=9, **DIVERGES)
    assert actions(path) == [(4, "end", "divergence")]
    assert (read_summary(path)["rounds"], len(read_metrics(path))) == (4, 4)
    with caplog.at_level(logging.INFO, "fedshield"):
        run(tmp_path, "ended", federation__rounds=9, results__resume=str(path), **DIVERGES)
    assert any("rounds are done" in line for line in caplog.messages)


def test_a_mean_of_the_models_is_evaluated_and_training_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.repair.treat.REMEDIES", {"divergence": (remedies.average,)})
    path = run(tmp_path, "mean", federation__rounds=6, **DIVERGES)
    assert actions(path)[0] == (4, "average", "divergence")
    fifth, sixth = (
        weights(run(tmp_path, f"plain{rounds}", federation__rounds=rounds, **{**DIVERGES, "repair__enabled": False}))
        for rounds in (5, 6)
    )
    mean = {  # train.average-decay = 0.9
        name: torch.lerp(fifth[name], now, 0.1) if now.is_floating_point() else now for name, now in sixth.items()
    }
    assert same(weights(path), mean)
    assert same(load_kept(path, read_checkpoint(path) or {}, UNAVERAGED), sixth)
    parts = run_in_parts(tmp_path / "parts", partial(_at, 6), federation__rounds=6, **DIVERGES)
    assert same(weights(parts), weights(path))


def test_what_nothing_follows_is_not_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fedshield"):
        path = run(tmp_path, "last", federation__rounds=4, **DIVERGES)
    told = [line for line in caplog.messages if line.startswith("repair: ")]
    assert [line.split("rounds: ")[0] for line in told if "after round" in line or "is the last" in line] == [
        "repair: round 4 is the last, so nothing is done against divergence; with --resume and more "
    ]
    (block,) = [block for block in troubles(read_metrics(path), "round") if "repair" in getattr(block, "header", [])]
    assert isinstance(block, Table)
    assert block.rows[0][2].startswith("not done, since no round has followed: go back to the last good model")
    assert [line for line in replay(path) if "repair would do next (roll-back)" in line]


def test_a_run_without_images_to_judge_on_is_refused_before_clients_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.app.Roster", None)
    for changes in ({"sharing__fraction": 1.0}, {"repair__sharing_budget": 1.0}):
        with pytest.raises(
            FedShieldError, match=r"repair\.enabled: there are no held-out images to judge the model on"
        ):
            run(tmp_path, "blind", repair__enabled=True, **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"diagnosis__enabled": False}, r"nothing to act on with diagnosis\.enabled = false; set it to true"),
        ({"sharing__fraction": 1.0}, r"no held-out images to judge the model on; set data\.validation-fraction above"),
        ({"method__name": "scaffold"}, r"method\.name = scaffold keeps arrays of its own"),
        ({"method__fine_tune_epochs": 1}, r"method\.fine-tune-epochs = 1: what follows the last round knows nothing"),
        ({"train__average": "ema"}, r"train\.average = ema would average models that were given up"),
        ({"repair__sharing_budget": 0.1}, r"repair\.sharing-budget = 0\.1: the clients receive more from the first"),
        (
            {"repair__sharing_budget": 0.5, "sharing__pool_fraction": 0.0, "sharing__fraction": 0.0},
            r"repair\.sharing-budget = 0\.5: there is no pool to send more of",
        ),
    ],
)
def test_what_repair_cannot_work_with_is_one_line(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(FedShieldError, match=told):
        run(tmp_path, "refused", **{"repair__enabled": True, **changes})


def test_that_nobody_can_be_set_aside_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fedshield"):
        run(tmp_path, "all", federation__rounds=1, repair__enabled=True)
    assert any("no client can be set aside, since all 10 replies" in line for line in caplog.messages)
