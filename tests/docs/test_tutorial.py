"""The tutorial, from install to report: every command, as it is written there."""

import json
from pathlib import Path

import pytest

from tests.helpers.pages import commands, type_in


@pytest.mark.slow
def test_every_command_of_the_tutorial_works_and_shows_what_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    told = {}
    for command in commands("index.md"):
        done = type_in(command, tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        told[command[1]] = done.stdout
    assert list(told) == ["doctor", "run", "report", "compare", "evaluate"]
    assert opened.read_text().count("runs/first/report.html") == 2

    first, undefended = (
        json.loads((tmp_path / "runs" / name / "summary.json").read_text())["final"] for name in ("first", "undefended")
    )
    # "Both are about as accurate on natural images; under attack, the second loses most of its accuracy."
    assert abs(first["natural"]["value"] - undefended["natural"]["value"]) < 0.1
    assert undefended["worst"]["value"] < 0.25 * undefended["natural"]["value"]
    assert first["worst"]["value"] > 0.35 * first["natural"]["value"]
    assert "Robust accuracy over epsilon" in (tmp_path / "runs" / "first" / "report.html").read_text()
