"""What `--help` tells, in the versions of typer and click that are installed."""

import re

import pytest
import typer
from click import Command, Context
from typer.testing import CliRunner

from simulations.cli.main import app

GROUP = typer.main.get_group(app)
NAMES = sorted(GROUP.commands)


def told(text: str) -> str:
    """A text without what depends on the terminal's width: folds, frames and alignment."""
    return re.sub(r"[\s│]+", " ", text)


@pytest.mark.parametrize("name", [None, *NAMES], ids=lambda name: name or "fedshield")
def test_every_argument_and_option_is_explained(name: str | None) -> None:
    command: Command = GROUP if name is None else GROUP.commands[name]
    shown = CliRunner().invoke(app, [*([name] if name else []), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for parameter in command.get_params(Context(command)):
        explanation = getattr(parameter, "help", None)
        assert explanation, f"{parameter.name}: no help"
        assert told(explanation) in told(shown.stdout), parameter.name


@pytest.mark.parametrize("name", NAMES)
def test_every_command_shows_an_example(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout
    assert re.search(rf"^ fedshield {name}\b", shown, re.MULTILINE), shown
