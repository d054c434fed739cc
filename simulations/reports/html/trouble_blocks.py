"""What was diagnosed during a run: a timeline, and the evidence."""

from collections.abc import Sequence

from server.repair.remedies import AT_ONCE
from simulations.reports.accuracy import Record
from simulations.reports.figures.trouble_figures import timeline
from simulations.reports.html.page import Block, Table, Text, charts


def troubles(metrics: Sequence[Record], unit: str) -> list[Block]:
    """Return when a run had which trouble, and a row for each time; nothing where nothing was diagnosed.

    Args:
        metrics: lines of ``metrics.jsonl``.
        unit: ``round`` or ``epoch``.
    """
    judged = [line for line in metrics if "diagnoses" in line]
    if not judged:
        return []
    last: dict[tuple[str, int], tuple[int, Record]] = {}
    for line in judged:
        for found in line["diagnoses"]:
            last[found["name"], found["since-round"]] = line["round"], found
    if not last:
        return [Text(f"None was seen in {len(judged)} {unit}{'' if len(judged) == 1 else 's'}.")]
    rows = [
        [found["name"], found["severity"], found["evidence"], f"{since} to {end}"]
        for (_, since), (end, found) in sorted(last.items(), key=lambda each: each[0][1])
    ]
    header = ["trouble", "at its worst", f"what was seen last, on few held-out images or in the {unit}'s replies"]
    return [*charts(timeline(judged, unit)), Table([*header, f"{unit}s"], rows, 3), *_repairs(metrics, unit)]


def _repairs(metrics: Sequence[Record], unit: str) -> list[Block]:
    """Return what repair has done; nothing where it has done nothing."""
    rows = []
    for line in metrics:
        for each in line.get("repairs", ()):
            lost = line is metrics[-1] and each["action"] not in AT_ONCE
            told = f"not done, since no {unit} has followed: {each['told']}" if lost else each["told"]
            rows.append([each["action"], each["trouble"], told, f"{line['round']}"])
    return [Table(["repair", "against", "what, and why", f"after {unit}"], rows, 3)] if rows else []
