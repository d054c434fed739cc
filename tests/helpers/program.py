"""The command line as a user meets it: a real process."""

import os
import subprocess
import sys
from pathlib import Path

from common.config.flat import Flat
from tests.helpers.settings import TINY

PROGRAM = str(Path(sys.executable).with_name("fedshield"))


def tiny_options(**changes: object) -> list[str]:
    flat: Flat = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}  # type: ignore[dict-item]
    return [part for key, value in flat.items() for part in ("--set", f"{key}={value}")]


def fedshield(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        [PROGRAM, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
