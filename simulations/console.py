"""Where the log goes: to people, to programs, or nowhere."""

import json
import logging
import signal
import sys
from enum import StrEnum
from types import FrameType
from typing import NoReturn

from rich.console import Console

console = Console(soft_wrap=True, highlight=False)


class Output(StrEnum):
    """What a command tells while it runs.

    Attributes:
        PLAIN: lines for people, on stdout.
        QUIET: warnings alone, on stderr.
        JSON: on stdout an object a line for each event: ``start``, ``round`` (a line of ``metrics.jsonl``), ``final``
            (``summary.json``) and ``end``; the lines for people go to stderr.
    """

    PLAIN = "plain"
    QUIET = "quiet"
    JSON = "json"


class _ConsoleHandler(logging.Handler):
    """Prints log lines above a live view, without wrapping or markup."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(self.format(record), markup=False)


class _JsonHandler(logging.Handler):
    """Prints events."""

    def emit(self, record: logging.LogRecord) -> None:
        if (event := getattr(record, "event", None)) is not None:
            print(json.dumps(event), flush=True)  # noqa: T201


def log_to(console: Console, output: Output = Output.PLAIN) -> None:
    """Send FedShield's log to a console, and nowhere else; ``output`` says how much of it."""
    log = logging.getLogger("fedshield")
    if output is Output.PLAIN:
        log.handlers = [_ConsoleHandler(console)]
    else:
        stderr = _ConsoleHandler(Console(stderr=True, soft_wrap=True, highlight=False))
        log.handlers = [stderr, *([_JsonHandler()] if output is Output.JSON else [])]
    log.setLevel(logging.WARNING if output is Output.QUIET else logging.INFO)
    log.propagate = False


def interrupt_once() -> None:
    """Let a first Ctrl-C end the command in order, and a second one at once."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as in the background
        signal.signal(signal.SIGINT, _first)


def interrupt_when_terminated() -> None:
    """Let a polite kill be as good as Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _first(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    console.show_cursor()  # the second one leaves no time for it
    sys.stdout.flush()
    raise KeyboardInterrupt
