"""What the documentation asks its reader to type."""

import re
import shlex
import subprocess
import textwrap
from pathlib import Path

from common.paths import ROOT
from tests.helpers.bench import BIN

_BLOCK = r"\n\n((?:    .*\n|\n(?=\n*    ))+)"


def blocks(page: str, heading: str = "") -> list[str]:
    """Return the indented blocks of a page of ``docs``, without the indentation; ``heading``: of this section alone."""
    text = (ROOT / "docs" / page).read_text()
    if heading:
        section = re.search(rf"^##+ {re.escape(heading)}$(.*?)(?=^##+ |\Z)", text, re.DOTALL | re.MULTILINE)
        assert section, f"docs/{page} has no section {heading!r}"
        text = section[1]
    return [textwrap.dedent(block) for block in re.findall(_BLOCK, text)]


def own_file(name: str) -> str:
    """Return the Python file that ``docs/own.md`` shows under this name."""
    found = re.findall(rf"This\s+is\s+`{re.escape(name)}`:{_BLOCK}", (ROOT / "docs" / "own.md").read_text())
    assert len(found) == 1, f"docs/own.md shows {len(found)} files after 'This is `{name}`:', expected 1"
    return textwrap.dedent(found[0])


def commands(page: str, heading: str = "") -> list[list[str]]:
    """Return the commands of FedShield in a page or section, as they are typed in a checkout, without ``uv run``."""
    lines = [line for block in blocks(page, heading) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("uv run fedshield ")]


def type_in(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of FedShield in a folder."""
    program, *arguments = command
    return subprocess.run(
        [BIN / program, *arguments], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
