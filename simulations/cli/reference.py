"""The page of all commands, from what ``--help`` says.

``uv run python -m simulations.cli.reference > docs/commands.md``
"""

from typing import Any

import typer
from click import Command, Context, Option, Parameter

from simulations.cli.main import app

HEAD = f"""# Every command

What `fedshield COMMAND --help` says, on one page. In a checkout, write `uv run` in front. Where a command takes the
directory of a run or a study, its name is enough if it is in the default `results.dir`. A command ends with status 0
after success, 1 after a mistake or a failed run, 2 where it was called wrongly, and 130 after Ctrl-C or SIGTERM.
`python -m {__package__}.reference` generates this page from the commands themselves.
"""
_BAR = "&#124;"  # a bar would end the cell of a table


def reference() -> str:
    """Return the page, as Markdown."""
    return "\n".join([HEAD, *(_command(name, command) for name, command in typer.main.get_group(app).commands.items())])


def _command(name: str, command: Command) -> str:
    context = Context(command, info_name=name)
    told = (command.help or "").split("\n\n")
    words = [part for part in told if not part.startswith("fedshield ")]
    examples = [part for part in told if part.startswith("fedshield ")]
    parts = [f"## {name}", *words, *(f"```text\n{lines}\n```" for lines in examples)]
    rows = [_row(parameter, context) for parameter in command.get_params(context) if parameter.name != "help"]
    if rows:
        parts.append("\n".join(["| argument or option | value | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _row(parameter: Parameter, context: Context) -> str:
    is_flag: Any = getattr(parameter, "is_flag", False)
    value = "" if is_flag else _code(parameter.make_metavar(context))
    meaning = str(getattr(parameter, "help", "") or "").replace("|", _BAR)
    if isinstance(parameter, Option):
        return f"| {', '.join(map(_code, parameter.opts))} | {value} | {meaning} |"
    return f"| {value} | | {meaning} |"


def _code(text: str) -> str:
    return f"<code>{text.replace('|', _BAR)}</code>"


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201
