"""Tables for the terminal."""

from typing import Any

from rich.box import SIMPLE
from rich.table import Column, Table

from common.evaluation import Evaluation


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return accuracy with its 95 % interval, one row for each attack."""
    table = Table("accuracy", "%", "95 % interval", title=f"n = {evaluation.n} test images")
    rates = {"natural": evaluation.natural, **evaluation.robust, "worst case": evaluation.worst}
    for name, rate in rates.items():
        low, high = rate.interval
        table.add_row(name, f"{100 * rate.value:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]".replace("[", r"\["))
    return table


def partition_table(described: dict[str, Any]) -> Table:
    """Return images per class, one row for each client, one for the pool and one for what every client receives."""
    # In a narrow terminal the names of the classes are folded, never the numbers.
    digits = len(str(max(map(sum, described["clients"]))))
    columns = [Column(name, justify="right", overflow="fold", min_width=digits) for name in described["classes"]]
    total = Column("all", justify="right", no_wrap=True)
    table = Table(
        Column("client", no_wrap=True), *columns, total, title="training images by class", box=SIMPLE, pad_edge=False
    )
    for client, counts in enumerate(described["clients"]):
        table.add_row(str(client), *(str(count or "·") for count in counts), str(sum(counts)))
    table.add_section()
    for name in ("pool", "shared"):
        table.add_row(name, *(str(count or "·") for count in described[name]), str(sum(described[name])))
    return table
