"""The command line."""

import sys
from typing import Any

import typer
from click import Context
from typer.core import TyperGroup

from common.errors import FedShieldError, explain_os_errors
from common.words import visible
from simulations.cli.network_commands import network
from simulations.cli.result_commands import results
from simulations.cli.run_commands import machine, runs
from simulations.cli.study_commands import studies
from simulations.terminal.console import interrupt_once
from simulations.terminal.streams import lasting_streams


class _Commands(TyperGroup):
    """Typer would end with status 1 after Ctrl-C; the shell's own convention is 130. SIGTERM ends a command alike."""

    def invoke(self, ctx: Context) -> Any:
        interrupt_once()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("fedshield: interrupted", file=sys.stderr)  # noqa: T201
            sys.exit(130)


app = typer.Typer(
    cls=_Commands,
    help=(
        "Federated adversarial training on Flower: how robust is a model that many clients train together?\n\n"
        "fedshield doctor                       check this machine\n"
        "fedshield run --name first             train ten clients, in a minute\n"
        "fedshield report runs/first --open     show the results in a browser\n"
        "fedshield COMMAND --help               more examples and all options"
    ),
    epilog="Exit status: 0 success, 1 a mistake or a failed run, 2 wrong usage, 130 Ctrl-C or SIGTERM.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


for part in (runs, studies, machine, results, network):
    app.add_typer(part)


def main() -> None:
    """Entry point: a mistake that the user can fix is one line on stderr and exit status 1."""
    with lasting_streams():
        try:
            with explain_os_errors():  # even a check whether a file exists can fail: its name may be too long
                app()
        except FedShieldError as error:
            print(f"fedshield: {visible(str(error))}", file=sys.stderr)  # noqa: T201
            sys.exit(1)
