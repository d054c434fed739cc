"""Tables for the terminal."""

from typing import Any

from rich.table import Table

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
    table = Table("client", *described["classes"], "all", title="training images by class")
    for client, counts in enumerate(described["clients"]):
        table.add_row(str(client), *(str(count or "·") for count in counts), str(sum(counts)))
    table.add_section()
    for name, label in (("pool", "pool"), ("shared", "to each")):
        table.add_row(label, *(str(count or "·") for count in described[name]), str(sum(described[name])))
    return table
