"""Configurations as Flower carries them: dotted keys in kebab case, scalar values."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import FedShieldError, explain_os_errors
from common.parsing import parse_toml
from common.paths import defaults_file
from common.words import near

Scalar = bool | int | float | str
Flat = dict[str, Scalar]
_NO_SECURE_AGGREGATION = (
    ": Flower's SecAgg+ does not work with the strategies of its message API, see docs/privacy.md; leave it out "
    "(privacy.noise-multiplier bounds what the models tell of a client)"
)


def default_config() -> Flat:
    """Return the defaults of ``[tool.flwr.app.config]``, flat."""
    return flatten(tomllib.loads(defaults_file().read_text("utf-8"))["tool"]["flwr"]["app"]["config"])


def toml_lines(table: Mapping[str, Any]) -> list[str]:
    """Return a TOML file's lines for keys, dotted or not, whose values are scalars or lists of them."""
    # JSON writes these as TOML does, except for one character.
    return [
        f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f") for key, value in table.items()
    ]


def read_toml(path: Path) -> Flat:
    """Read a configuration file; keys are checked by ``merge``."""
    return flatten(read_tables(path), path)


def read_tables(path: Path) -> dict[str, Any]:
    """Read a TOML file as it is.

    Raises:
        FedShieldError: it cannot be read, or is no TOML.
    """
    with explain_os_errors(path):
        text = path.read_bytes()
    try:
        return parse_toml(text)
    except ValueError as error:
        raise FedShieldError(f"{path}: not valid TOML: {error}") from error


def merge(base: Flat, override: Flat, source: str) -> Flat:
    """Lay ``override`` over ``base``; an unknown key is an error that names near matches and ``source``."""
    for key in override:
        if key not in base:
            raise FedShieldError(f"unknown key {key} ({source}){instead_of(key, list(base))}")
    return {**base, **override}


def instead_of(key: str, known: Sequence[str]) -> str:
    """Return what to do about a key that there is not, as the end of a sentence."""
    return _NO_SECURE_AGGREGATION if "secagg" in key or "secure-agg" in key else near(key, list(known))


def flatten(nested: Mapping[str, Any], source: Path | None = None) -> Flat:
    """Turn nested tables into dotted keys.

    Raises:
        FedShieldError: a key is given twice, as in ``"data.name"`` and ``[data]``; the message names ``source``.
    """
    flat: Flat = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            part = {f"{key}.{rest}": scalar for rest, scalar in flatten(value, source).items()}
        else:
            part = {key: value}
        if twice := sorted(flat.keys() & part.keys()):
            where = f"{source}: " if source else ""
            raise FedShieldError(f'{where}{twice[0]} is set twice, as "{twice[0]}" and in a table; remove one')
        flat |= part
    return flat


def nest(flat: Mapping[str, Scalar]) -> dict[str, Any]:
    """Turn dotted keys into nested tables."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, leaf = key.split(".")
        place = nested
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise FedShieldError(f"unknown key {key}: {table} is a value, not a table")
        if isinstance(place.get(leaf), dict):
            raise FedShieldError(
                f"{key} = {value!r}: {key} is a table; set one of its keys, such as {key}.{next(iter(place[leaf]))}"
            )
        place[leaf] = value
    return nested
