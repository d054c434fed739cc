"""``key=value``, as it is given after ``--set``."""

import tomllib
from contextlib import suppress
from typing import Any

from common.config.flat import Flat, Scalar, default_config, flatten
from common.errors import FedShieldError


def parse_assignment(text: str) -> Flat:
    """Parse ``key=value``: a TOML value, or a bare word as a string, of the type that the key wants."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise FedShieldError(f"--set {text}: write key=value, as in --set federation.rounds=20")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        parsed = value
    return flatten(
        {key: parsed if isinstance(parsed, list | dict) else _typed(parsed, value, default_config().get(key))}
    )


def _typed(parsed: Any, text: str, default: Scalar | None) -> Any:
    """Return a value of the type of its key: a name may look like a date or a number, a number like a word.

    Args:
        parsed: as TOML has it.
        text: as it was written.
        default: of the key; None where there is no such key.
    """
    if isinstance(default, str):
        return parsed if isinstance(parsed, str) else text
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower(), parsed)
    if default is not None and isinstance(parsed, str):  # such as .5 and 010, which TOML does not take
        for number in (int, float):
            with suppress(ValueError):
                return number(text)
    return parsed
