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
        FedShieldError: it is something else, empty, or has a NUL character.
    """
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else given
    if not isinstance(text, str):
        raise FedShieldError(f"{name} = {given!r:.80}: {type(given).__name__}; give a path, as a text or a Path")
    if not text:
        raise FedShieldError(f"{name} = '': is empty; give a path, or leave it out")
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


def names_of(name: str, given: Any) -> list[str]:
    """Return a list of texts, as ``list_of`` does."""
    texts = list_of(name, given, "names, as in ['contrast', 'jpeg']")
    if odd := [each for each in texts if not isinstance(each, str)]:
        raise FedShieldError(f"{name}: {odd[0]!r:.80} is among them; give names, as in ['contrast', 'jpeg']")
    return texts


def list_of(name: str, given: Any, what: str) -> list[Any]:
    """Return the list that was given as an argument.

    Args:
        name: of the argument, for messages.
        given: its value; an array too.
        what: to give, for messages.

    Raises:
        FedShieldError: it is no list.
    """
    try:
        return list(given)
    except TypeError as error:
        raise FedShieldError(f"{name} = {given!r:.80}: give {what}, or leave it out") from error
