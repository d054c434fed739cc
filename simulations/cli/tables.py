"""Tables for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.table import Column, Table
from rich.text import Text

from common.attacks.threat import L2, LINF
from common.data.cuts import training_images, unused_images
from common.evaluation.results import Evaluation
from simulations.reports.accuracy import NO_ATTACK, AccuracyTable, Kind, Record, bracket, share, tell_chance
from simulations.reports.beside import tell_backdoor, tell_calibration
from simulations.reports.headline import tell_others

_NAME = 24  # characters of a name for which there is room, as long as there is another column
_GAP = 2  # between two columns of numbers


def evaluation_tables(evaluation: Evaluation, record: dict[str, Any]) -> list[Table]:
    """Return everything that an evaluation found: one table for each way to look at it.

    Args:
        evaluation: the figures.
        record: the same for a results file, as in ``server.evaluation``.
    """
    accuracy = AccuracyTable.of(record)
    notes = [*tell_chance(record), *tell_calibration(record), *tell_backdoor(record)]
    tables = [evaluation_table(accuracy, evaluation.caption, notes)]
    if evaluation.distortions:
        tables.append(distortion_table(evaluation))
    tables.append(class_table(accuracy, evaluation.caption))
    if "per-client" in record:
        tables.append(client_table(evaluation, record["per-client"]))
    if "curve" in record:
        tables.append(curve_table(evaluation, record["curve"], record.get("norm", LINF)))
    return tables


def evaluation_table(accuracy: AccuracyTable, caption: str, notes: Sequence[str] = ()) -> Table:
    """Return accuracy with its 95 % interval, one row for each attack; AutoAttack's parts come before it."""
    told = Text("\n".join([*notes, *([] if accuracy.attacked else [NO_ATTACK])]))
    table = Table("accuracy", "%", "95 % interval", title=caption, caption=told)
    for row in accuracy.rows:
        name = f"  {row.name}" if row.kind is Kind.PART else row.name
        table.add_row(name, share(row.value), bracket(row.interval))
    return table


def headline_lines(figures: Record) -> list[str]:
    """Say what all kept evaluations of a model know together; nothing where there was no attack."""
    if not figures.get("robust"):
        return []
    worst, against = figures["worst"], ", ".join(figures["robust"])
    line = f"Worst case of all that is known of this model: {share(worst['value'])} % {bracket(worst['interval'])}"
    return [f"{line} on n = {figures['n']:,} test images, under {against}", *tell_others(figures)]


def distortion_table(evaluation: Evaluation) -> Table:
    """Return what the attacks without a budget needed, one row for each."""
    table = Table(
        "attack", "fooled %", "median L2", "median Linf × 255", title=f"Smallest distortions, {evaluation.caption}"
    )
    for label, found in evaluation.distortions.items():
        l2, linf = (found.as_json()[f"median-{norm}"] for norm in ("l2", "linf"))
        table.add_row(
            label,
            share(found.success.value if found.success else None),
            "–" if l2 is None else f"{l2:.3f}",
            "–" if linf is None else f"{255 * linf:.2f}",
        )
    return table


def class_table(accuracy: AccuracyTable, caption: str) -> Table:
    """Return accuracy in percent, one row for each class and one column for each attack."""
    columns = Column("n", justify="right"), *_columns(accuracy.whole())
    table = Table("class", *columns, title=f"By class, {caption}")
    for name, count, own in accuracy.by_class():
        table.add_row(name, str(count), *map(share, own))
    return table


def client_table(evaluation: Evaluation, accuracies: dict[str, list[float | None]]) -> Table:
    """Return accuracy in percent on the test images of each client's classes, one row for each client."""
    title = f"By client, each class weighted as in the client's data, {evaluation.caption}"
    table = Table("client", *_columns(accuracies), title=title)
    for client, own in enumerate(zip(*accuracies.values(), strict=True)):
        table.add_row(str(client), *map(share, own))
    return table


def curve_table(evaluation: Evaluation, curve: Sequence[dict[str, Any]], norm: str) -> Table:
    """Return robust accuracy with its 95 % interval, one row for each epsilon.

    Args:
        evaluation: that the curve belongs to.
        curve: its points.
        norm: of epsilon.
    """
    title = f"{curve[0]['attack']} with steps of 2.5 epsilon / steps, {evaluation.caption}"
    table = Table("L2 epsilon × 255" if norm == L2 else "epsilon × 255", "%", "95 % interval", title=title)
    for point in curve:
        table.add_row(f"{point['epsilon-255']:g}", share(point["value"]), bracket(point["interval"]))
    return table


def _columns(labels: Iterable[str]) -> list[Column]:
    return [Column("worst case" if label == "worst" else label, justify="right") for label in labels]


def partition_tables(described: dict[str, Any], width: int) -> list[Table]:
    """Return images per class of each client, of the pool, what every client receives and what none does.

    Args:
        described: as in ``partition.json``.
        width: of the terminal. Each row is a client; where the classes leave no room for that, each row is a class, in
            as many tables as the clients need.
    """
    classes, clients = described["classes"], described["clients"]
    held = {str(client): counts for client, counts in enumerate(clients)}
    held |= {name: described[name] for name in ("pool", "shared", "validation") if name in described}
    cut = " (data.max-examples)" if unused_images(described) else ""
    title = f"training images by class, {training_images(described)}{cut}"
    digits, total = (len(str(max(map(most, held.values())))) for most in (max, sum))
    longest = max(map(cell_len, ["client", *held]))
    if longest + len(classes) * (digits + _GAP) + total + _GAP + 2 <= width:
        rows = {name: [*counts, sum(counts)] for name, counts in held.items()}
        return [_counts_table(title, ["client", *classes, "all"], rows, digits, len(clients))]
    least = max(total, longest)
    room = max(1, (width - min(max(map(cell_len, classes)), _NAME) - 2) // (least + _GAP))
    tables = []
    for first in range(0, len(held), room):
        part = list(held)[first : first + room]
        rows = {name: [held[holder][place] for holder in part] for place, name in enumerate(classes)}
        rows["all"] = [sum(held[holder]) for holder in part]
        tables.append(_counts_table(title, ["class", *part], rows, least, len(classes)))
    return tables


def _counts_table(
    title: str, header: Sequence[str], rows: Mapping[str, Sequence[int]], least: int, upper: int
) -> Table:
    """Return counts under their names, with a gap after the ``upper`` rows; names are folded, numbers never.

    Args:
        title: of the table.
        header: of all columns.
        rows: name -> counts.
        least: width of a column of numbers.
        upper: how many rows are above the gap.
    """
    table = Table(title=title, box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    longest = max(map(cell_len, [header[0], *rows]))
    table.add_column(header[0], overflow="fold", no_wrap=longest <= _NAME, min_width=min(longest, _NAME))
    for name in header[1:]:
        table.add_column(name, justify="right", overflow="fold", min_width=least)
    for place, (name, counts) in enumerate(rows.items(), 1):
        table.add_row(name, *(str(count or "·") for count in counts), end_section=place == upper)
    return table
