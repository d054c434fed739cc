"""The command line."""

import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from click import Abort, ClickException, Context, UsageError
from click.exceptions import NoArgsIsHelpError
from typer.core import TyperGroup

from common.errors import FedShieldError, explain_os_errors
from common.paths import ROOT
from common.words import near, visible
from simulations.cli.catalogue_commands import answers
from simulations.cli.measure_commands import measures
from simulations.cli.network_commands import network
from simulations.cli.result_commands import results
from simulations.cli.run_commands import machine, runs
from simulations.cli.study_commands import studies
from simulations.terminal.console import console, interrupt_once
from simulations.terminal.streams import lasting_streams


class _Commands(TyperGroup):
    """Typer would end with status 1 after Ctrl-C; the shell's own convention is 130. SIGTERM ends a command alike.

    It would also draw a box around wrong usage of an option, where every other mistake is one line.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        given = args, prog_name, complete_var, False, windows_expand_args
        if not standalone_mode:
            return super().main(*given, **extra)
        try:
            done = super().main(*given, **extra)
        except NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except ClickException as error:
            print(f"fedshield: {_usage(error)}", file=sys.stderr)  # noqa: T201
            sys.exit(error.exit_code)
        except Abort:
            print("fedshield: not confirmed, so nothing was done; --yes does not ask", file=sys.stderr)  # noqa: T201
            sys.exit(1)
        sys.exit(done if isinstance(done, int) else 0)

    def resolve_command(self, ctx: Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            hint = near(args[0], list(self.commands)) or "; fedshield --help lists them"
            raise UsageError(f"{args[0]}: no such command{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Context) -> Any:
        interrupt_once()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("fedshield: interrupted", file=sys.stderr)  # noqa: T201
            sys.exit(130)


def _usage(error: ClickException) -> str:
    """Return wrong usage of the command line as one line, with where to look."""
    words = visible(" ".join(error.format_message().split())).rstrip(".") + _near_choice(error)
    ctx = getattr(error, "ctx", None)
    if ctx is None or ctx.parent is None:
        return words
    return f"{ctx.info_name}: {words}; see fedshield {ctx.info_name} --help"


def _near_choice(error: ClickException) -> str:
    """Return what was meant where a value is none of a few words."""
    choices = getattr(getattr(getattr(error, "param", None), "type", None), "choices", None)
    found = re.match(r"'([^']*)' is not one of ", error.message)
    return near(found[1], [str(choice) for choice in choices]) if choices and found else ""


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


for part in (runs, studies, machine, answers, results, measures, network):
    app.add_typer(part)


def _show_version(asked: bool) -> None:
    if asked:
        try:
            console.print(f"fedshield {version('fedshield')}")
        except PackageNotFoundError:
            console.print(f"fedshield, not installed: its source in {ROOT}")
        raise typer.Exit


@app.callback()
def _whole(
    version_: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: a mistake that the user can fix is one line on stderr and exit status 1."""
    with lasting_streams():
        try:
            with explain_os_errors():  # even a check whether a file exists can fail: its name may be too long
                app()
        except FedShieldError as error:
            print(f"fedshield: {visible(str(error))}", file=sys.stderr)  # noqa: T201
            sys.exit(1)
