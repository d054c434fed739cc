"""The tables of a study file: each is read and checked by one function, before anything starts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from common.attacks.threat import AttackSpec
from common.config.flat import Flat, Scalar, default_config, flatten, merge
from common.errors import FedShieldError
from common.words import near

Grid = dict[str, list[Scalar]]
Cases = dict[str, Flat]


def read_set(path: Path, tables: Mapping[str, Any]) -> Flat:
    """Return ``[set]``: keys for all runs, and the folder of the study's directory."""
    settings = _table(path, tables, "set")
    _check_keys(settings, f"{path}, [set]", place=True)
    return settings


def read_seeds(path: Path, seeds: Any) -> tuple[int, ...]:
    """Return the seeds of every point."""
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) != len(seeds):
        raise FedShieldError(f"{path}: seeds = {seeds!r}: write a list of different whole numbers, as in [1, 2, 3]")
    return tuple(seeds)


def read_grid(path: Path, tables: Mapping[str, Any]) -> Grid:
    """Return ``[grid]``: key -> its values."""
    table: Mapping[str, Any] = _table(path, tables, "grid")
    if "grid" in tables and not table:
        raise FedShieldError(f"{path}: [grid] is empty: write a key with its values, or remove the table")
    _check_keys(table, f"{path}, [grid]")
    for key, values in table.items():
        if not isinstance(values, list) or not values:
            raise FedShieldError(f"{path}: grid.{key} = {values!r}: write a list with at least one value")
        if len(set(_plain(values))) != len(values):
            raise FedShieldError(f"{path}: grid.{key} = {values!r}: write plain values, each of them once")
    return dict(table)


def read_cases(path: Path, tables: Mapping[str, Any]) -> Cases:
    """Return ``[[case]]``: name -> what it sets."""
    given = tables.get("case", [])
    if "case" in tables and not given:
        raise FedShieldError(f"{path}: case = {given!r} is empty: write a table [[case]] for each, or remove it")
    cases: Cases = {}
    for table in given if isinstance(given, list) and all(isinstance(t, Mapping) for t in given) else [None]:
        name = table.get("name") if table is not None else None
        if table is None or not isinstance(name, str) or not name.strip():
            raise FedShieldError(f'{path}: case: write each as a table [[case]] with a name, as in name = "CalFAT"')
        if name in cases:
            raise FedShieldError(f"{path}: case {name!r} appears twice")
        cases[name] = flatten({key: value for key, value in table.items() if key != "name"}, path)
        _check_keys(cases[name], f"{path}, case {name!r}")
    return cases


def read_reference(path: Path, tables: Mapping[str, Any], grid: Grid, cases: Cases) -> Flat:
    """Return ``[reference]``, which must be a point of the study."""
    reference = _table(path, tables, "reference")
    known: dict[str, list[Any]] = {**({"case": list(cases)} if cases else {}), **grid}
    for key, value in reference.items():
        if key not in known:
            raise FedShieldError(
                f"{path}: unknown key reference.{key}; the study varies {', '.join(known) or 'nothing'}"
                f"{near(key, list(known))}"
            )
        if not set(_plain([value])) & set(_plain(known[key])):
            raise FedShieldError(
                f"{path}: reference.{key} = {value!r}: not a value of the study: {known[key]}"
                f"{near(str(value), list(map(str, known[key])))}"
            )
    return reference


def read_headline(path: Path, tables: Mapping[str, Any]) -> str:
    """Return the attack that figures show, as results name it; "" where the file says nothing."""
    given = tables.get("headline", "")
    try:
        return "" if given == "" else str(AttackSpec.parse(str(given)))
    except ValueError as error:
        raise FedShieldError(f"{path}: headline = {given!r}: {error}") from error


def check_twice(path: Path, grid: Grid, cases: Cases) -> None:
    """Refuse a key that the grid and a case set."""
    for name, case in cases.items():
        if twice := [key for key in case if key in grid]:
            raise FedShieldError(f"{path}: {twice[0]} is set by [grid] and by case {name!r}; remove one")


def check_changes(path: Path, changes: Flat, grid: Grid, cases: Cases) -> None:
    """Refuse ``--set`` of what the study, or the sweep, chooses for each run."""
    varied = {"seed", *grid, *(key for case in cases.values() for key in case)}
    if taken := sorted(varied & changes.keys()):
        raise FedShieldError(f"--set {taken[0]}: the study {path.stem} sets it for each run; change {path}")
    _check_keys(changes, "--set", place=True)


def _plain(values: Sequence[Any]) -> list[tuple[bool, Scalar]]:
    """Return values so that they can be compared: 0 and 0.0 are one value, 1 and true are two."""
    return [(type(value) is bool, value) for value in values if isinstance(value, get_args(Scalar))]


def _table(path: Path, tables: Mapping[str, Any], key: str) -> Flat:
    table = tables.get(key, {})
    if not isinstance(table, Mapping):
        raise FedShieldError(f"{path}: {key} = {table!r}: write a table, as in [{key}]")
    return flatten(table, path)


def chosen_by_sweep(key: str) -> bool:
    """Return whether the sweep sets the key for each run; ``results.dir``, the place of all, is the study's."""
    return key == "seed" or (key.startswith("results.") and key != "results.dir")


def _check_keys(keys: Iterable[str], source: str, *, place: bool = False) -> None:
    """Refuse unknown keys, and those that the sweep chooses; ``place``: the study's own place may be among them."""
    merge(default_config(), dict.fromkeys(keys, 0), source)
    for key in keys:
        if key == "seed":
            raise FedShieldError(f"seed ({source}): give the seeds of a study as seeds = [1, 2, 3]")
        if chosen_by_sweep(key) or (key == "results.dir" and not place):
            raise FedShieldError(f"{key} ({source}): the sweep chooses the place of each run; remove the key")
