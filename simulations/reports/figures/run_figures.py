"""Figures of runs: accuracy over rounds, and who has which classes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.run_directory.reader import read_described_partition, read_kind, read_metrics
from simulations.reports.accuracy import chance
from simulations.reports.figures.charts import shares
from simulations.reports.figures.files import paths_of, save
from simulations.reports.figures.line_charts import top_of, with_chance, with_interval
from simulations.reports.figures.style import Figure, Panel, Record

HOLDER = "holder (images)"


def plot_run(run_dir: Path) -> None:
    """Draw a run's accuracy over rounds and its label distribution, if it has one, into ``figures/``."""
    folder = run_dir / "figures"
    save(accuracy_figure({run_dir.name: run_dir}), folder / "accuracy")
    if described := read_described_partition(run_dir):
        save(partition_figure(described), folder / "partition")


def missing_figures(run_dir: Path) -> list[Path]:
    """Return what ``plot_run`` would draw and is not there."""
    stems = ["accuracy", *(["partition"] if (run_dir / "partition.json").exists() else [])]
    files = [file for stem in stems for file in paths_of(run_dir / "figures" / stem)]
    return [file for file in files if not file.exists()]


def accuracy_figure(runs: Mapping[str, Path]) -> Figure:
    """Draw natural and robust accuracy over rounds, one panel for each run, with 95 % intervals of the test sample.

    Args:
        runs: title of the panel -> run directory.
    """
    found = {title: _rates(read_metrics(run_dir)) for title, run_dir in runs.items()}
    guessing = {title: _chance(run_dir) for title, run_dir in runs.items()}
    labels = list(dict.fromkeys(row["measure"] for rows in found.values() for row in rows))
    top = top_of([row["high"] for rows in found.values() for row in rows], *guessing.values())
    panels = []
    for title, run_dir in runs.items():
        unit = read_kind(run_dir).unit
        rows = [{unit: row["round"], **row} for row in found[title]]
        drawn = with_chance(with_interval(rows, unit, unit, labels, top), guessing[title], top)
        panels.append(Panel(title, drawn, 270))
    tested = [row["n"] for rows in found.values() for row in rows]
    caption = f"Bands: 95 % intervals of the test sample; {images(tested)}" if tested else "Nothing was measured yet."
    return Figure(panels, next(iter(runs)) if len(runs) == 1 else "", caption, 150, 3)


def _chance(run_dir: Path) -> float | None:
    """Return the accuracy on the last test images of always naming one class, where that is known."""
    tested = [line["evaluation"] for line in read_metrics(run_dir) if line["evaluation"]]
    return chance(tested[-1], read_described_partition(run_dir)) if tested else None


def _rates(metrics: Sequence[Record]) -> list[dict[str, Any]]:
    """Return each accuracy of each round: of the worst case where there are several attacks; validation's alone."""
    rows = []
    for line in metrics:
        for name, which in (("evaluation", ""), ("validation", " (validation)")):
            found = line.get(name) or {}
            rates = {"natural": found.get("natural"), **found.get("robust", {})}
            if len(rates) > 2 or (which and found.get("robust")):
                rates["worst case"] = found.get("worst")
            for measure, rate in rates.items():
                if rate and not (which and measure != "worst case"):
                    rows.append({"round": line["round"], "measure": measure + which, **scaled(rate), "n": found["n"]})
    return rows


def scaled(rate: Record) -> dict[str, float]:
    """Return ``accuracy``, ``low`` and ``high`` in per cent."""
    low, high = rate["interval"]
    return {"accuracy": 100 * rate["value"], "low": 100 * low, "high": 100 * high}


def images(counts: Iterable[int]) -> str:
    """Say how many test images there were."""
    return f"n = {' or '.join(map(str, sorted(set(counts))))} test images"


def partition_figure(described: Record) -> Figure:
    """Draw the training images of each class at each client, in the server's pool and in what is shared.

    Args:
        described: as in ``partition.json``.
    """
    others = {name: described[name] for name in ("pool", "shared", "validation") if sum(described.get(name, ()))}
    holders = with_totals({**by_client(described["clients"]), **others})
    drawing = shares(holders, described["classes"], "class", HOLDER)
    what = "the part of the server's pool that every client receives too"
    if (kind := described.get("shared-kind", "images")) != "images":
        what = f"what every client receives too (sharing.kind = {kind})"
    caption = f"Training images of each class. Shared: {what}."
    return Figure([Panel("", drawing, height_of(len(holders)))], "", caption, 100, 1)


def by_client(counts: Iterable[Sequence[float]]) -> dict[str, Sequence[float]]:
    """Return what each client has under its name."""
    return {f"client {client}": own for client, own in enumerate(counts)}


def with_totals(holders: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Return counts under names that say how many there are in all."""
    return {f"{name} ({sum(own):,.0f})": own for name, own in holders.items()}


def height_of(rows: int) -> int:
    """Return how high a table of shades is drawn, in pixels."""
    return max(60, min(24 * rows, 900))
