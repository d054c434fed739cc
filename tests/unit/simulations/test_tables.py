"""Tables in a terminal: nothing in them is cut, however narrow it is and however much there is to show."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from common.evaluation.evaluate import Evaluation
from common.paths import ROOT
from simulations.attack_images import Attacked, table
from simulations.cli.tables import class_table, client_table, partition_tables
from simulations.reports.accuracy import AccuracyTable
from simulations.reports.sheets import whole
from simulations.terminal.console import Terminal


def lines(*tables: Table, width: int) -> list[str]:
    terminal = Terminal(width=width)
    with terminal.capture() as capture:
        for each in tables:
            terminal.print(each)
    return capture.get().splitlines()


@pytest.mark.parametrize("clients", [3, 40])
@pytest.mark.parametrize("classes", [10, 100])
def test_a_division_of_any_size_shows_every_number(classes: int, clients: int) -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1000, 5000, (clients, classes))
    described = {
        "classes": [f"number_{place}" for place in range(classes)],
        "clients": counts.tolist(),
        "pool": [7] * classes,
        "shared": [0] * classes,
    }
    shown = lines(*partition_tables(described, 80), width=80)
    assert max(map(len, shown)) <= 80
    words = [line.split() for line in shown]
    for client, row in enumerate(counts):
        if classes == 10:
            assert [str(client), *map(str, row), str(row.sum())] in words
        else:
            heading = next(at for at, line in enumerate(words) if line[:1] == ["class"] and str(client) in line)
            column = words[heading].index(str(client))
            assert [words[heading + 2 + place][column] for place in range(classes)] == list(map(str, row))
            assert words[heading + 2 + 99][0] == "number_99"
    assert sum(line[:1] == ["pool"] or "pool" in line for line in words) == 1


def test_an_evaluation_of_many_attacks_shows_every_number() -> None:
    labels = np.array([0, 1, 1, 0, 1, 0])
    attacks = [f"/home/someone/attacks.py:attack_number_{number}-20x5" for number in range(12)]
    predictions = {name: (labels + (np.arange(6) < place % 6)) % 2 for place, name in enumerate(["natural", *attacks])}
    found = Evaluation(labels, predictions, 2)
    accuracy = AccuracyTable.of({**found.as_json(details=True), "classes": ["cat", "dog"]})
    assert [row.name for row in accuracy.rows[:2]] == ["natural", "attacks.py:attack_number_0-20x5"]
    assert accuracy.attacks()[0] == attacks[0]
    rates = [f"{100 * rate.value:.1f}" for each in found.per_class().values() for rate in each if rate]
    shares = {name: [0.125, 0.375] for name in ("natural", *attacks)}
    by_client = [whole(client_table(found, shares), 80)]
    for sheet, numbers in ((whole(class_table(accuracy, "n = 6"), 80), rates), (by_client[0], ["12.5"] * 13)):
        text = "\n".join(lines(sheet, width=80))
        for number in set(numbers):
            assert text.split().count(number) == numbers.count(number)
        assert "…" not in text


def test_a_picture_with_a_long_path_keeps_its_numbers() -> None:
    images = np.zeros((1, 3, 2, 2), np.uint8)
    found = Attacked(
        *([Path("a" * 90) / f"{'q' * 90}.png"], "how", ("c" * 40, "dog"), np.array([0]), np.array([False])),
        *(images, images + 255, np.array([[0.9, 0.1]], np.float32), np.array([[0.2, 0.8]], np.float32)),
    )
    text = "\n".join(lines(whole(table(found), 80, 4), width=80))
    assert "255" in text.split()
    assert "…" not in text
    assert text.count("q") == 90


def test_what_reads_a_study_does_not_wait_for_torch() -> None:
    script = (
        "import sys; from pathlib import Path; import simulations.reports.figures.study_figures; "
        "from simulations.reports.study_tables import make_tables; print(len(make_tables(Path(sys.argv[1])))); "
        "print([name for name in ('torch', 'flwr', 'scipy.stats') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script, str(ROOT / "docs/results/cpu-sharing")]
    told = subprocess.check_output(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, timeout=300)
    assert told == "4\n[]\n"


@pytest.mark.parametrize("command", ["report", "tables", "export", "evaluate", "compare x"])
def test_a_wrong_path_is_told_before_anything_large_is_imported(command: str, tmp_path: Path) -> None:
    script = (
        "import sys; from simulations.cli.main import main\n"
        "try: main()\n"
        "finally: print([name for name in ('torch', 'altair', 'vl_convert') if name in sys.modules])"
    )
    words = [sys.executable, "-c", script, *command.split(), str(tmp_path / "gone")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (1, "[]\n")
    assert done.stderr.startswith("fedshield: ")
    assert len(done.stderr.splitlines()) == 1
