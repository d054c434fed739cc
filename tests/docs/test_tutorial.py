"""The tutorial, from install to report: every command, as it is written there."""

import itertools
import json
from pathlib import Path

import pytest

from tests.helpers.pages import commands, type_in

PAGE = "index.md"
NAMED = ["doctor", "run", "report", "run", "compare", "evaluate", "report"]


def test_the_tutorial_shows_the_runs_that_it_makes() -> None:
    """The next test is slow, so that a change of the page would not be noticed."""
    assert [command[1] for command in commands(PAGE)] == NAMED
    made: list[str] = []
    for command in commands(PAGE):
        assert {word for word in command if word.startswith("runs/")} <= set(made), command
        made += [f"runs/{name}" for option, name in itertools.pairwise(command) if option == "--name"]


@pytest.mark.slow
def test_every_command_of_the_tutorial_works_and_shows_what_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    for command in commands(PAGE):
        done = type_in(command, tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    (paths,) = (command[2:] for command in commands(PAGE) if command[1] == "compare")
    assert opened.read_text().count(f"{paths[0]}/report.html") == 2

    first, undefended = (json.loads((tmp_path / path / "summary.json").read_text())["final"] for path in paths)
    # "Both are about as accurate on natural images; under attack, the second loses most of its accuracy."
    assert abs(first["natural"]["value"] - undefended["natural"]["value"]) < 0.1
    assert undefended["worst"]["value"] < 0.25 * undefended["natural"]["value"]
    assert first["worst"]["value"] > 0.35 * first["natural"]["value"]
    assert "Robust accuracy over epsilon" in (tmp_path / paths[0] / "report.html").read_text()
