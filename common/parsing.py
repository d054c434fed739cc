"""JSON and TOML that somebody may have written to do harm: what would fail later is refused when it is read."""

import json
import math
import tomllib
from typing import Any, NoReturn

from common.errors import is_text

_DEEPEST = 100
_MOST_DIGITS = 300  # longer numbers cannot be computed with
_TOO_DEEP = "nested too deep"


def parse_json(text: bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or would fail later; the message says why in a few words.
    """
    try:
        content = json.loads(
            text.decode("utf-8-sig"),
            object_pairs_hook=_once,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_whole,
        )
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError("not valid JSON") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _look_through(content, 0)
    return content


def parse_toml(text: bytes) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: as in ``parse_json``.
    """
    try:
        content = tomllib.loads(text.decode("utf-8-sig"))  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 from byte {error.start}; save it as UTF-8") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _look_through(content, 0)
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is given twice in an object: Python would take the last, and others the first."""
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)[:50]!r} appears twice in it")
    return table


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"contains {number}")


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number[:20])


def _whole(number: str) -> int:
    return int(number) if len(number) <= _MOST_DIGITS else _refuse(f"a number of {len(number)} digits")


def _look_through(content: object, depth: int) -> None:
    """Refuse what would fail later: what is nested too deep to be written, and text that cannot be printed."""
    if depth > _DEEPEST:
        raise ValueError(_TOO_DEEP)
    if isinstance(content, str):
        if not is_text(content):
            raise ValueError("contains half of a character")
    elif isinstance(content, dict):
        for key, value in content.items():
            _look_through(key, depth)
            _look_through(value, depth + 1)
    elif isinstance(content, list):
        for value in content:
            _look_through(value, depth + 1)
