"""Progress of evaluations and studies: the share of the work that is done, whatever an earlier command has kept."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from common.evaluation.store import SAVED, ArrayStore
from simulations.terminal.console import console, log_to
from simulations.terminal.evaluation_view import EvaluationView, parts_of
from simulations.terminal.sweep_view import SweepView


def test_what_an_evaluation_keeps_is_known_before() -> None:
    assert parts_of(["fgsm", "pgd-20x2"], models=1, radii=1, corruptions=["jpeg"]) == [
        *(("natural", 1.0), ("fgsm", 3.0), ("pgd-20", 41.0), ("pgd-20.restart-1", 41.0)),
        *(("natural", 1.0), ("pgd-20x2", 61.0)),
        *[("jpeg", 1.0)] * 5,
    ]


def test_a_kept_batch_moves_the_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ArrayStore(tmp_path)
    parts = [("natural", 1.0), ("fgsm", 3.0), ("pgd-20", 6.0)]
    with EvaluationView(Console(), parts, tmp_path) as view:
        store.save("fgsm", {"predictions": np.zeros(4), "done": np.array(2)})  # natural was kept before
        assert view.share == pytest.approx((1 + 3 / 2) / 10)
        store.save("fgsm", {"predictions": np.zeros(4), "done": np.array(4)})
        store.save("pgd-20", {"predictions": np.zeros(4), "done": np.array(4)})
        store.save("predictions-0a1b", {"labels": np.zeros(4)})  # nothing of the plan
        assert view.share == 1
    assert view not in SAVED.handlers
    assert capsys.readouterr().out == ""


def test_an_interrupted_evaluation_says_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), EvaluationView(Console(width=300), [], tmp_path):
        raise KeyboardInterrupt
    assert capsys.readouterr().out == f"Stopped: what was measured is kept in {tmp_path}; the same command continues\n"


def test_what_is_kept_is_printed_nowhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log_to(console)
    ArrayStore(tmp_path).save("fgsm", {"predictions": np.zeros(4)})
    assert capsys.readouterr() == ("", "")


def test_a_study_shows_its_runs_and_their_rounds() -> None:
    console = Console(width=100)
    view = SweepView(console, runs=6, finished=2)
    view.started("a", lambda: 3, 4)
    view.started("b", lambda: 9, 4)  # it is evaluated at last
    with console.capture() as capture:
        console.print(view)
    bar, *lines = capture.get().splitlines()
    assert bar.startswith("run 2/6")
    assert [line.strip() for line in lines] == ["a  3/4", "b  4/4"]
    view.ended("b")
    view._looked = 0.0
    with console.capture() as capture:
        console.print(view)
    assert capture.get().startswith("run 3/6")
    assert view._bar.tasks[0].completed == pytest.approx(1 + 3 / 4)
