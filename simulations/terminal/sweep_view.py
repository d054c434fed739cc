"""Shows how far a study is, and the time left, in a terminal; nothing where there is no terminal."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from simulations.terminal.progress import progress_bar

_EVERY = 2.0  # seconds between two looks at the runs

Rounds = Callable[[], int]  # how many rounds of a run are finished


class SweepView:
    """A bar of the study's runs, and the rounds of those under way.

    Args:
        console: where the study's lines go too.
        runs: how many there are.
        finished: how many of them an earlier sweep has finished.
    """

    def __init__(self, console: Console, runs: int, finished: int) -> None:
        self._bar = progress_bar(console)
        self._runs, self._before, self._ended = runs, finished, 0
        self._task = self._bar.add_task(self._told(), total=max(1, runs - finished))
        self._going: dict[str, tuple[Rounds, int]] = {}
        self._looked, self._lines = 0.0, list[Text]()
        visible = console.is_terminal
        self._live = Live(self, console=console, transient=True, refresh_per_second=2) if visible else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, name: str, rounds: Rounds, total: int) -> None:
        """Show a run that begins, of ``total`` rounds or epochs."""
        self._going[name] = rounds, total

    def ended(self, name: str) -> None:
        """Take a run that has ended, finished or failed."""
        self._going.pop(name, None)
        self._ended += 1

    def _told(self) -> str:
        return f"run {self._before + self._ended}/{self._runs}"

    def __rich__(self) -> RenderableType:
        """Return the view as it is now."""
        if time.monotonic() > self._looked + _EVERY:
            self._looked = time.monotonic()
            done = {name: (min(rounds(), total), total) for name, (rounds, total) in list(self._going.items())}
            self._lines = [Text(f"{name}  {now}/{total}", "dim") for name, (now, total) in done.items()]
            share = sum(now / max(1, total) for now, total in done.values())
            self._bar.update(self._task, completed=self._ended + share, description=self._told())
        return Group(self._bar, *self._lines)
