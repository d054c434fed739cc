"""What the documentation asks its reader to type."""

import re
import shlex
import subprocess
import textwrap
from pathlib import Path

from common.paths import ROOT
from tests.helpers.bench import BIN


def blocks(page: str) -> list[str]:
    """Return the indented blocks of a page of ``docs``, without the indentation."""
    text = (ROOT / "docs" / page).read_text()
    found = re.findall(r"\n\n((?:    .*\n|\n(?=\n*    ))+)", text)
    return [textwrap.dedent(block) for block in found]


def commands(page: str) -> list[list[str]]:
    """Return the commands of FedShield in a page, as they are typed in a checkout, without ``uv run``."""
    lines = [line for block in blocks(page) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("uv run fedshield ")]


def type_in(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of FedShield in a folder."""
    program, *arguments = command
    return subprocess.run(
        [BIN / program, *arguments], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
