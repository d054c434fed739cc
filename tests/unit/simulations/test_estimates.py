"""``--dry-run``: work counted by hand, and nothing written."""

from pathlib import Path

import pytest

from common.attacks.passes import attack_passes
from common.words import time_text
from server.run_directory.reader import CENTRALIZED, FEDERATION
from simulations.estimates.dry_run import flop_text, seconds_of
from simulations.estimates.speed import Speed
from simulations.estimates.work import Images, Work, count_images, passes_of, work_of
from tests.helpers.program import invoke, tiny_options
from tests.helpers.settings import TINY, tiny_config


@pytest.mark.parametrize(
    ("label", "passes"),
    [
        ("fgsm", 3),  # a gradient, which is 2, and a look at what it made
        ("pgd-20", 41),
        ("pgd-20x3", 81),  # 1 + 40 and twice half of 40
        ("apgd-t-20", 1 + 2 * 9 * 20),
        ("square", 5001),
        ("autoattack", 201 + 0.5 * (1801 + 2701 + 5001)),
        ("own.py:attack", None),
    ],
)
def test_an_attack_takes_its_steps(label: str, passes: float | None) -> None:
    assert attack_passes(label, 10) == passes


def test_the_work_of_a_federation_is_counted_by_hand() -> None:
    config = tiny_config(
        federation__rounds=4,
        train__local_epochs=2,
        sharing__pool_fraction=0.2,
        sharing__fraction=0.5,
        evaluate__every=3,
        evaluate__examples=50,
        evaluate__attacks="pgd-10",
        evaluate__final_examples=100,
        evaluate__final_attacks="fgsm",
        attack__steps=3,
        loss__name="pgd-at",
        method__name="fedavg",
    )
    images = count_images(config, FEDERATION)
    # 200 of shapes10: a pool of 40, half of which is shared
    assert images == Images(own=160, shared=20, held=0, tests=1000, classes=10)
    work = work_of(config, FEDERATION, images)
    clients = config.federation.clients
    assert (work.rounds, work.turns) == (4, 4 * clients)
    assert work.images == 4 * 2 * (160 + clients * 20)
    assert work.passes == 2 * 3 + 3
    # rounds 3 and 4; pgd-10 on the 60 % that are taken to be right
    assert work.tested == pytest.approx(2 * 50 + 100 + 0.6 * (2 * 50 * 21 + 100 * 3))
    assert work_of(config, FEDERATION, images, completed=3).rounds == 1
    alone = work_of(config, CENTRALIZED, count_images(config, CENTRALIZED))
    assert (alone.cohort, alone.images) == (1, config.centralized.epochs * 200)
    natural = tiny_config(
        attack__steps=3, loss__name="pgd-at", method__name="fedavg", federation__adversarial_clients=0.5
    )
    assert passes_of(natural, FEDERATION) == 0.5 * 9 + 0.5 * 3


def test_the_turns_of_a_round_are_shared_out_among_the_workers() -> None:
    work = Work(rounds=2, turns=6, cohort=3, images=600, passes=9, tested=1000, unknown=(), factor=2.0)
    speed = Speed(parameters=1, flops=1.0, training=0.01, testing=0.001, memory=0, device="cpu")
    assert seconds_of(work, speed, 1) == (pytest.approx(12), pytest.approx(1))
    assert seconds_of(work, speed, 2)[0] == pytest.approx(8)  # two turns one after the other, of three
    assert [time_text(x) for x in (0.2, 45, 600, 7200)] == ["1 s", "45 s", "10 min", "2.0 h"]
    assert flop_text(3.2e9) == "3.2 GFLOP"


def test_a_dry_run_checks_and_writes_nothing(tmp_path: Path) -> None:
    options = [*tiny_options(), "--results", str(tmp_path / "runs"), "--name", "one", "--dry-run"]
    done = invoke("run", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert told[-6:] == ["Model", "Rounds", "Training", "Evaluation", "Time", "Memory"]
    assert list(tmp_path.iterdir()) == []
    wrong = invoke("run", *options, "--set", "strategy.name=krum", "--set", "strategy.malicious=4")
    assert wrong.returncode == 1
    assert "strategy" in wrong.stderr
    for more, line in (
        (["--engine", "inprocess", "--workers", "2"], "--workers 2: the inprocess engine has one"),
        (["--json"], "--dry-run and --json: give one of them"),
    ):
        assert line in invoke("run", *options, *more).stderr
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "metrics.jsonl").write_text("")
    assert "contains another run" in invoke("run", *options).stderr


def test_a_dry_sweep_lists_points_and_writes_nothing(tmp_path: Path) -> None:
    study = tmp_path / "widths.toml"
    study.write_text('title = "Widths"\nseeds = [1, 2]\n[grid]\n"model.width" = [2, 3]\n')
    settings = [f"{key}={value}" for key, value in TINY.items() if key != "model.width"]
    options = [part for each in settings for part in ("--set", each)]
    options += ["--results", str(tmp_path / "out"), "--dry-run"]
    done = invoke("sweep", study, *options, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "Widths: 4 runs, 0 of them finished" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[:1] in (["2"], ["3"])]
    assert [row[:2] for row in rows] == [["2", "2"], ["3", "2"]]
    assert "In all: 4 runs" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["widths.toml"]
    study.write_text('seeds = [1]\n[grid]\n"data.name" = ["folder"]\n[set]\n"data.root" = "nowhere"\n')
    missing = invoke("sweep", study, "--dry-run", "--results", tmp_path / "out", cwd=tmp_path)
    assert missing.returncode == 1
    assert "no folder" in missing.stderr
