"""Where the log goes."""

import logging

from rich.console import Console

console = Console(soft_wrap=True, highlight=False)


class _ConsoleHandler(logging.Handler):
    """Prints log lines above a progress bar, without wrapping or markup."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(self.format(record), markup=False)


def log_to(console: Console) -> None:
    """Send FedShield's log to a console, and nowhere else."""
    log = logging.getLogger("fedshield")
    log.handlers = [_ConsoleHandler(console)]
    log.setLevel(logging.INFO)
    log.propagate = False
