"""Arguments of FedShield's functions in Python, where anything may be given."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FedShieldError


def path_of(name: str, given: Any) -> Path:
    """Return a path that was given as a text, a ``Path`` or an object with one, such as a run.

    Args:
        name: of the argument, for messages.
        given: its value.

    Raises:
        FedShieldError: it is something else, or has a NUL character.
    """
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else given
    if not isinstance(text, str):
        raise FedShieldError(f"{name} = {given!r:.80}: {type(given).__name__}; give a path, as a text or a Path")
    if "\0" in text:
        raise FedShieldError(f"{name} = {text!r:.80}: has a NUL character, which no path can have; leave it out")
    return Path(text)


def check_flags(**given: Any) -> None:
    """Check arguments that are True or False: a text such as ``"no"`` would count as True.

    Raises:
        FedShieldError: one is something else.
    """
    for name, value in given.items():
        if not isinstance(value, bool | np.bool_):
            raise FedShieldError(f"{name} = {value!r:.80}: give True or False")
