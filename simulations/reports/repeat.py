"""The command that repeats a run, from what its directory contains."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.config.assignment import parse_assignment
from common.config.flat import Flat, Scalar, default_config
from server.run_directory.reader import DEPLOYED, Kind

SUBMIT = "fedshield submit --superlink HOST:PORT --ca ca.crt"
ABOUT_REAL_CLIENTS = (
    "This run had real clients, or was started by Flower's own commands: the server does not know by which command. "
    "Give your SuperLink's address and certificate instead; each client must have the images that it had."
)


def repeat(kind: Kind, config: Flat, environment: Mapping[str, Any]) -> list[str]:
    """Return the lines of a shell that repeat a run, under a new name.

    Args:
        kind: of the run.
        config: of the run, flat and complete.
        environment: ``environment.json``.
    """
    defaults = default_config()
    changed = {key: value for key, value in config.items() if value != defaults.get(key)}
    if not config["threads"] and (threads := environment.get("threads")):
        changed["threads"] = threads  # another machine may have another number of cores
    if config.get("train.attack-precision") == "auto" and (precision := environment.get("attack-precision")):
        changed["train.attack-precision"] = precision  # another machine may have another processor
    command = SUBMIT if kind == DEPLOYED else kind.command
    words = [word for key, value in changed.items() if not key.startswith("results.") for word in _set(key, value)]
    # Paths in a configuration belong to one machine: with real clients, that of the server.
    place = environment.get("folder")
    lines = [f"cd {shlex.quote(str(place))}"] if place and kind != DEPLOYED else []
    return [*lines, " ".join([command, *words])]


def _set(key: str, value: Scalar) -> tuple[str, str]:
    """Return ``--set key=value`` so that the shell and ``--set`` read the same value."""
    bare = f"{key}={value}"
    given = bare if isinstance(value, str) and parse_assignment(bare) == {key: value} else f"{key}={json.dumps(value)}"
    return "--set", shlex.quote(given)


def sweep_again(study_dir: Path) -> str:
    """Return the command that repeats a study; nothing where its file is not there."""
    path = study_dir / "study.toml"
    return f"fedshield sweep {shlex.quote(str(path))}" if path.is_file() else ""
