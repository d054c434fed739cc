"""The bar that all views share: what goes on, how far it is, the time so far and the time left."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar(console: Console, **options: Any) -> Progress:
    """Return a bar without tasks.

    Args:
        console: where the log goes too.
        options: more of ``Progress``.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        **options,
    )
