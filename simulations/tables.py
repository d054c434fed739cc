"""Tables for the terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Column, Table

from common.cuts import nobodys_images, training_images
from common.evaluation import Evaluation, Rate
from simulations.run_figures import NO_ATTACK, bracket, share


def evaluation_tables(evaluation: Evaluation, record: dict[str, Any]) -> list[Table]:
    """Return everything that an evaluation found: one table for each way to look at it.

    Args:
        evaluation: the figures.
        record: the same for a results file, as of ``server.evaluate``.
    """
    tables = [evaluation_table(evaluation)]
    if evaluation.distortions:
        tables.append(distortion_table(evaluation))
    tables.append(class_table(evaluation, record["classes"]))
    if "per-client" in record:
        tables.append(client_table(evaluation, record["per-client"]))
    if "curve" in record:
        tables.append(curve_table(evaluation, record["curve"]))
    return tables


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return accuracy with its 95 % interval, one row for each attack; AutoAttack's parts come before it."""
    table = Table("accuracy", "%", "95 % interval", title=evaluation.caption)
    table.add_row("natural", *_cells(evaluation.natural))
    for label, rate in evaluation.robust.items():
        for part, survivors in evaluation.parts.items() if label == "autoattack" else ():
            table.add_row(f"  after {part}", *_cells(survivors))
        table.add_row(label, *_cells(rate))
    if evaluation.worst:
        table.add_row("worst case", *_cells(evaluation.worst))
    else:
        table.caption = NO_ATTACK
    return table


def distortion_table(evaluation: Evaluation) -> Table:
    """Return what the attacks without a budget needed, one row for each."""
    table = Table(
        "attack", "fooled %", "median L2", "median Linf × 255", "robust within epsilon %", "95 % interval",
        title=f"Smallest distortions, {evaluation.caption}",
    )  # fmt: skip
    for label, found in evaluation.distortions.items():
        l2, linf = (found.as_json()[f"median-{norm}"] for norm in ("l2", "linf"))
        table.add_row(
            label,
            share(found.success.value if found.success else None),
            "–" if l2 is None else f"{l2:.3f}",
            "–" if linf is None else f"{255 * linf:.2f}",
            *_cells(found.robust),
        )
    return table


def class_table(evaluation: Evaluation, classes: Sequence[str]) -> Table:
    """Return accuracy in percent, one row for each class and one column for each attack."""
    rates = evaluation.per_class()
    table = Table("class", Column("n", justify="right"), *_columns(rates), title=f"By class, {evaluation.caption}")
    for number, name in enumerate(classes):
        own = [each[number] for each in rates.values()]
        count = str(own[0].n if own[0] else 0)
        table.add_row(name, count, *(share(rate.value if rate else None) for rate in own))
    return table


def client_table(evaluation: Evaluation, accuracies: dict[str, list[float | None]]) -> Table:
    """Return accuracy in percent on the test images of each client's classes, one row for each client."""
    title = f"By client, each class weighted as in the client's data, {evaluation.caption}"
    table = Table("client", *_columns(accuracies), title=title)
    for client, own in enumerate(zip(*accuracies.values(), strict=True)):
        table.add_row(str(client), *map(share, own))
    return table


def curve_table(evaluation: Evaluation, curve: Sequence[dict[str, Any]]) -> Table:
    """Return robust accuracy with its 95 % interval, one row for each epsilon."""
    title = f"{curve[0]['attack']} with steps of 2.5 epsilon / steps, {evaluation.caption}"
    table = Table("epsilon × 255", "%", "95 % interval", title=title)
    for point in curve:
        table.add_row(f"{point['epsilon-255']:g}", share(point["value"]), bracket(point["interval"]))
    return table


def _columns(labels: Iterable[str]) -> list[Column]:
    return [Column("worst case" if label == "worst" else label, justify="right") for label in labels]


def _cells(rate: Rate) -> tuple[str, str]:
    return share(rate.value), bracket(rate.interval)


def partition_table(described: dict[str, Any]) -> Table:
    """Return images per class, one row for each client, for the pool, what every client receives and what none does."""
    # In a narrow terminal the names of the classes are folded, never the numbers.
    digits = len(str(max(map(sum, described["clients"]))))
    columns = [Column(name, justify="right", overflow="fold", min_width=digits) for name in described["classes"]]
    total = Column("all", justify="right", no_wrap=True)
    cut = " (data.max-examples)" if nobodys_images(described) else ""
    title = f"training images by class, {training_images(described)}{cut}"
    table = Table(Column("client", no_wrap=True), *columns, total, title=title, box=SIMPLE, pad_edge=False)
    for client, counts in enumerate(described["clients"]):
        table.add_row(str(client), *(str(count or "·") for count in counts), str(sum(counts)))
    table.add_section()
    for name in ("pool", "shared", *(["validation"] if "validation" in described else [])):
        table.add_row(name, *(str(count or "·") for count in described[name]), str(sum(described[name])))
    return table
