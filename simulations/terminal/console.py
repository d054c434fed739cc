"""Where the log goes: to people, to programs, or nowhere; and the only place where text is printed to a terminal."""

import json
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.protocol import is_renderable
from rich.segment import Segment
from rich.text import Text

from common.errors import FedShieldError, explain_os_errors
from common.words import visible

log = logging.getLogger("fedshield")

_SHOW_CURSOR = b"\x1b[?25h"


class _Printing:
    """Delays a first Ctrl-C while the main thread prints: otherwise rich would print its buffer twice."""

    def __init__(self) -> None:
        self.depth, self.interrupted = 0, False

    @contextmanager
    def whole(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # the only one that is interrupted
            yield
            return
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if self.interrupted and not self.depth:
                self.interrupted = False
                raise KeyboardInterrupt


_printing = _Printing()


class Terminal(Console):
    """A console that prints text as it is: nothing in it can move the cursor, set a color or be markup.

    Names of classes, runs and files come from others. Only what rich itself draws, as a live view, has colors.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, highlight=False, markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects, a path too, as rich does."""
        with _printing.whole():
            super().print(*(each if is_renderable(each) else str(each) for each in objects), **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make one line of what is printed, or is in a table; only a ``Text`` of rich may have several."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return what is drawn of anything; all text goes through here, and only rich's own commands stay commands."""
        for part in super().render(renderable, options):
            yield part if part.control else part._replace(text=visible(part.text, "\n"))


console = Terminal()


class Output(StrEnum):
    """What a command tells while it runs.

    Attributes:
        PLAIN: lines for people, on stdout.
        QUIET: warnings alone, on stderr.
        JSON: on stdout an object a line for each event: ``start``, ``round`` (a line of ``metrics.jsonl``), ``final``
            (``summary.json``) and ``end``, or ``stop`` where it fails; the lines for people go to stderr.
    """

    PLAIN = "plain"
    QUIET = "quiet"
    JSON = "json"


class _ConsoleHandler(logging.Handler):
    """Prints log lines above a live view, without wrapping."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(self.format(record))


class _JsonHandler(logging.Handler):
    """Prints events."""

    def emit(self, record: logging.LogRecord) -> None:
        if (event := getattr(record, "event", None)) is not None:
            print(json.dumps(event), flush=True)  # noqa: T201


def log_to(console: Console, output: Output = Output.PLAIN) -> None:
    """Send FedShield's log to a console, and nowhere else; ``output`` says how much of it."""
    if output is Output.PLAIN:
        log.handlers = [_ConsoleHandler(console)]
    else:
        stderr = _ConsoleHandler(Terminal(stderr=True))
        log.handlers = [stderr, *([_JsonHandler()] if output is Output.JSON else [])]
    log.setLevel(logging.WARNING if output is Output.QUIET else logging.INFO)
    log.propagate = False


def interrupt_once() -> None:
    """Let a first Ctrl-C or SIGTERM end the command properly, and a Ctrl-C after it at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as Ctrl-C is in the background of a script
            signal.signal(number, _first)


def _first(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _again)
    if console.is_terminal:  # the second one leaves no time for it
        with suppress(OSError):
            os.write(console.file.fileno(), _SHOW_CURSOR)  # not through the console, which may be writing
    if _printing.depth:
        _printing.interrupted = True
    else:
        raise KeyboardInterrupt


def _again(number: int, frame: FrameType | None) -> None:
    """Let the command end as it has begun to: ``timeout`` and others send SIGTERM to a process and to its group."""


@contextmanager
def figures_may_fail(again: str) -> Iterator[None]:
    """Say so, and continue, where figures cannot be drawn: the results that they show are stored.

    Args:
        again: the command that draws them.
    """
    try:
        with explain_os_errors():
            yield
    except FedShieldError as error:
        log.warning("%s; the results are complete; draw the figures with: %s", error, again)


def tell_figures(paths: Sequence[Path], to: Terminal = console) -> None:
    """Say which figures were drawn, each once: its PNG, and the other kinds of file that go with it."""
    for path in paths:
        if path.suffix == ".png":
            others = [other.suffix for other in paths if other.stem == path.stem and other != path] or [".svg"]
            to.print(f"Figure: {path} (and {', '.join(others)})")
