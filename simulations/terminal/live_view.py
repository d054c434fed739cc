"""Shows the progress of a run in a terminal or a notebook; nothing where there is neither."""

import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import psutil
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from simulations.terminal.notebook import NotebookOutput, in_notebook
from simulations.terminal.progress import progress_bar

_BARS = "▁▂▃▄▅▆▇█"
_TREND = 24  # rounds that a trend shows
_MOST_CLIENTS = 60


class LiveView:
    """Rounds, time left, accuracies with their trend, and clients; the log scrolls above it.

    Args:
        console: where the log goes too.
        unit: ``round`` or ``epoch``.
        total: how many of them.
        completed: how many of them an earlier part of the run has finished.
        first: what happens until the first news.
        clients: how many there are; 0 shows none.
        quiet: show nothing.
    """

    def __init__(
        self, console: Console, unit: str, total: int, completed: int, first: str, clients: int = 0, quiet: bool = False
    ) -> None:
        self._bar = progress_bar(console)
        self._unit, self._total, self._completed = unit, total, completed
        self._task = self._bar.add_task(first, total=max(0, total - completed))
        self._clients = [Text(f"{client} ·", "dim") for client in range(clients)]
        self._trends: dict[str, deque[float]] = {}
        self._tested = 0
        self._troubles: list[Text] = []
        self._looked, self._held = 0.0, ""
        self._handler = _Listener(self)
        visible = console.is_terminal and not quiet
        self._live = Live(self, console=console, transient=True, refresh_per_second=4) if visible else None
        self._output = NotebookOutput(self) if in_notebook() and not (visible or quiet) else None

    def __enter__(self) -> Self:
        logging.getLogger("fedshield").addHandler(self._handler)
        for place in (self._live, self._output):
            if place is not None:
                place.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("fedshield").removeHandler(self._handler)
        for place in (self._live, self._output):
            if place is not None:
                place.stop()

    def show(self, round_or_epoch: int, share: float, detail: str) -> None:
        """Show that ``share``, in [0, 1], of a round is done."""
        self._bar.update(
            self._task,
            completed=round_or_epoch - 1 + share - self._completed,
            description=f"{self._unit} {round_or_epoch}/{self._total}  {detail}",
        )
        if self._output is not None:
            self._output.refresh()

    def client(self, number: int, seconds: float | None, answered: int) -> None:
        """Show that a client has answered after ``seconds``, or failed; ``answered``: how many have in this round."""
        if answered == 1:
            for place, text in enumerate(self._clients):
                self._clients[place] = Text(text.plain, "dim")
        if number < len(self._clients):
            failed = Text(f"{number} ✗", "red")
            self._clients[number] = failed if seconds is None else Text(f"{number} ✓ {seconds:.1f} s", "green")

    def figures(self, record: Mapping[str, Any]) -> None:
        """Take a round's line of ``metrics.jsonl``."""
        for client in record.get("refused", ()):
            if int(client) < len(self._clients):
                self._clients[int(client)] = Text(f"{client} ✗", "red")
        self._troubles = [
            Text(
                f"{found['name']} ({found['severity']}, since {self._unit} {found['since-round']})",
                "red" if found["severity"] == "severe" else "yellow",
            )
            for found in record.get("diagnoses", ())
        ]
        evaluation = record["evaluation"]
        if evaluation is not None:
            self._tested = evaluation["n"]
            for name in ("natural", *(["worst"] if evaluation["robust"] else [])):
                trend = self._trends.setdefault(name, deque(maxlen=_TREND))
                trend.append(100 * evaluation[name]["value"])

    def __rich__(self) -> RenderableType:
        """Return the view as it is now."""
        lines: list[RenderableType] = [self._bar]
        if self._trends:
            grid = Table.grid(padding=(0, 2))
            for name, trend in self._trends.items():
                label = {"natural": "natural accuracy", "worst": "robust accuracy"}[name]
                grid.add_row(label, f"{trend[-1]:.1f} %", Text(sparks(trend), "cyan"), f"n = {self._tested}")
            lines.append(grid)
        if self._clients:
            more = len(self._clients) - _MOST_CLIENTS
            shown = [*self._clients[:_MOST_CLIENTS], *([Text(f"and {more} more", "dim")] if more > 0 else [])]
            lines.append(Columns([Text("clients"), *shown], padding=(0, 3)))
        if self._troubles:
            lines.append(Columns([Text("troubles"), *self._troubles], padding=(0, 3)))
        lines.append(Text(self._memory(), "dim"))
        return Group(*lines)

    def _memory(self) -> str:
        """Return what this process and those that it has started hold, looked up every other second."""
        if time.monotonic() > self._looked + 2:
            self._looked, self._held = time.monotonic(), memory_usage()
        return self._held


class _Listener(logging.Handler):
    """Takes a round's figures from the log line that tells them."""

    def __init__(self, view: LiveView) -> None:
        super().__init__()
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        event: Mapping[str, Any] = getattr(record, "event", {})
        if event.get("event") == "round":
            self._view.figures(event)


def sparks(values: "deque[float] | list[float]") -> str:
    """Return a trend in one line of text, from its lowest value to its highest; flat where nothing changes."""
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


def memory_usage() -> str:
    """Return the memory that this process holds with those that it has started, and what is held of a GPU."""
    me, total = psutil.Process(), 0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # one that has just ended
            total += process.memory_info().rss
    text = f"memory {total / 1e9:.1f} GB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        free, whole = torch.cuda.mem_get_info()
        text += f", GPU {(whole - free) / 1e9:.1f} of {whole / 1e9:.0f} GB"
    return text
