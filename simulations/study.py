"""Study files: a grid of configurations, and its points."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, get_args

from common.config import RunConfig, parse_config
from common.errors import FedShieldError, explain_os_errors
from common.flat import Flat, Scalar, default_config, flatten, merge, near, read_toml

HERE = Path(__file__).resolve().parent
PRESETS = HERE / "presets"
SWEEPS = HERE / "sweeps"
COMMANDS = ("run", "centralized", "partitions")

_PER_RUN = ("seed", "results.name", "results.resume")
_KEYS = ("title", "command", "base", "seeds", "reference", "set", "grid", "case")


@dataclass(frozen=True)
class Study:
    """A study file, checked but for the configurations of its points.

    Attributes:
        name: the file's stem.
        title: heading of tables and figures.
        command: what each point runs, one of ``COMMANDS``.
        seeds: the seeds of every point.
        settings: the complete configuration that the points change.
        grid: key -> its values.
        cases: name -> what it sets; empty for a study without cases.
        reference: the point against which paired differences are given: ``case`` or key of the grid -> value.
    """

    name: str
    title: str
    command: str
    seeds: tuple[int, ...]
    settings: Flat
    grid: dict[str, list[Scalar]]
    cases: dict[str, Flat]
    reference: Flat


@dataclass(frozen=True)
class Point:
    """One run of a study.

    Attributes:
        name: of its run directory; unique in the study, and tells what varies.
        varied: ``case`` and the keys of the grid -> the point's values.
        seed: of the run.
        config: complete; the results' place is still that of the study file.
    """

    name: str
    varied: Flat
    seed: int
    config: RunConfig

    @property
    def label(self) -> str:
        """The name without the seed: the same for all seeds."""
        return self.name.removesuffix(f"seed{self.seed}").removesuffix("-")


def find_study(file: Path) -> Path:
    """Return the study file at a path, or the shipped one of that name."""
    path, shipped = file.expanduser(), SWEEPS / f"{file}.toml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    known = ", ".join(sorted(known.stem for known in SWEEPS.glob("*.toml")))
    raise FedShieldError(f"{path.absolute()}: no such file; give a study file, or one of the studies: {known}")


def load_study(file: Path, changes: Flat | None = None) -> Study:
    """Read a study file.

    Args:
        file: its path, or the name of a shipped one.
        changes: laid over the file's ``[set]``.

    Raises:
        FedShieldError: one line that names the file and the key.
    """
    path = find_study(file)
    with explain_os_errors(path):
        content = path.read_bytes()
    try:
        tables = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FedShieldError(f"{path}: not valid TOML: {error}") from error
    for key in tables:
        if key not in _KEYS:
            raise FedShieldError(f"{path}: unknown key {key}{near(key, list(_KEYS))}")
    command = tables.get("command", "run")
    if command not in COMMANDS:
        raise FedShieldError(f"{path}: command = {command!r}: unknown; allowed: {', '.join(COMMANDS)}")
    settings = merge(_base(path, tables.get("base")), _table(path, tables, "set"), f"{path}, [set]")
    study = Study(
        name=path.stem,
        title=str(tables.get("title", path.stem)),
        command=command,
        seeds=_seeds(path, tables.get("seeds")),
        settings=merge(settings, changes or {}, "--set"),
        grid=_grid(path, _table(path, tables, "grid")),
        cases=_cases(path, tables.get("case", [])),
        reference=_table(path, tables, "reference"),
    )
    _check(path, study, _table(path, tables, "set"), changes or {})
    return study


def points(study: Study) -> list[Point]:
    """Return the study's runs: all of the first seed, then all of the second, so that an early end leaves replicates.

    Raises:
        FedShieldError: a configuration is wrong; one line that names the run.
    """
    found: list[Point] = []
    for seed in study.seeds:
        for case, values in product(study.cases or {"": {}}, product(*study.grid.values())):
            changes = dict(zip(study.grid, values, strict=True))
            name = _name({**({"case": case} if case else {}), **changes}, seed)
            flat = {**study.settings, **study.cases.get(case, {}), **changes, "seed": seed}
            try:
                config = parse_config(flat)
            except FedShieldError as error:
                raise FedShieldError(f"study {study.name}, run {name}: {error}") from error
            # As the configuration has it: 0 and 0.0 are one value of a share.
            varied: Flat = {"case": case} if case else {}
            varied |= {key: config.flat()[key] for key in study.grid}
            found.append(Point(name, varied, seed, config))
    names = [point.name for point in found]
    for name in names:
        if names.count(name) > 1:
            raise FedShieldError(f"study {study.name}: two runs are named {name}; let their values differ more")
    return found


def study_toml(study: Study) -> str:
    """Return the study as a file that needs no other."""
    lines = [f"{key} = {_toml(getattr(study, key))}" for key in ("title", "command")]
    lines.append(f"seeds = {_toml(study.seeds)}")
    settings = {key: value for key, value in study.settings.items() if key not in _PER_RUN}
    tables: list[tuple[str, Mapping[str, Any]]] = [("[set]", settings), ("[grid]", study.grid)]
    if study.reference:
        tables.insert(0, ("[reference]", study.reference))
    tables += [("[[case]]", {"name": name, **changes}) for name, changes in study.cases.items()]
    for heading, table in tables:
        lines += ["", heading, *_toml_lines(table)]
    return "\n".join(lines) + "\n"


def config_toml(config: RunConfig) -> str:
    """Return a complete configuration file."""
    return "\n".join(_toml_lines(config.flat())) + "\n"


def _toml_lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items()]


def _toml(value: Any) -> str:
    """Return a scalar, or a list of them; JSON writes these as TOML does."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _name(varied: Flat, seed: int) -> str:
    parts = [f"{key}={json.dumps(value).strip(chr(34))}" for key, value in varied.items()]
    stem = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", ",".join(parts))
    if len(stem) > 180:  # a file name has 255 bytes at most
        stem = f"{stem[:160]}_{sha256(stem.encode()).hexdigest()[:8]}"
    return f"{stem}-seed{seed}" if stem else f"seed{seed}"


def _base(path: Path, base: object) -> Flat:
    """Return the complete configuration that ``base`` names: a file beside the study's, or a preset."""
    flat = default_config()
    if base is None:
        return flat
    files = [path.parent / str(base), PRESETS / f"{base}.toml"]
    for file in files:
        if file.is_file():
            return merge(flat, read_toml(file), str(file))
    known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.toml")))
    raise FedShieldError(f"{path}: base = {base!r}: no file {files[0]}, nor a preset of that name; presets: {known}")


def _table(path: Path, tables: Mapping[str, Any], key: str) -> Flat:
    table = tables.get(key, {})
    if not isinstance(table, Mapping):
        raise FedShieldError(f"{path}: {key} = {table!r}: write a table, as in [{key}]")
    return flatten(table)


def _seeds(path: Path, seeds: Any) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) != len(seeds):
        raise FedShieldError(f"{path}: seeds = {seeds!r}: write a list of different whole numbers, as in [1, 2, 3]")
    return tuple(seeds)


def _grid(path: Path, table: Mapping[str, Any]) -> dict[str, list[Scalar]]:
    _check_keys(table, f"{path}, [grid]")
    for key, values in table.items():
        if not isinstance(values, list) or not values:
            raise FedShieldError(f"{path}: grid.{key} = {values!r}: write a list with at least one value")
        plain = [(type(value) is bool, value) for value in values if isinstance(value, get_args(Scalar))]
        if len(set(plain)) != len(values):  # 0 and 0.0 are one value
            raise FedShieldError(f"{path}: grid.{key} = {values!r}: write plain values, each of them once")
    return dict(table)


def _cases(path: Path, tables: object) -> dict[str, Flat]:
    cases: dict[str, Flat] = {}
    for table in tables if isinstance(tables, list) and all(isinstance(t, Mapping) for t in tables) else [None]:
        name = table.get("name") if table is not None else None
        if table is None or not isinstance(name, str) or not name.strip():
            raise FedShieldError(f'{path}: case: write each as a table [[case]] with a name, as in name = "CalFAT"')
        if name in cases:
            raise FedShieldError(f"{path}: case {name!r} stands twice")
        cases[name] = flatten({key: value for key, value in table.items() if key != "name"})
        _check_keys(cases[name], f"{path}, case {name!r}")
    return cases


def _check_keys(keys: Iterable[str], source: str) -> None:
    merge(default_config(), dict.fromkeys(keys, 0), source)
    for key in keys:
        if key == "seed":
            raise FedShieldError(f"seed ({source}): give the seeds of a study as seeds = [1, 2, 3]")
        if key.startswith("results."):
            raise FedShieldError(f"{key} ({source}): the sweep chooses the place of each run; take the key out")


def _check(path: Path, study: Study, given: Flat, changes: Flat) -> None:
    """Refuse a key that is set in two places, and a reference that is no point of the study."""
    _check_keys([key for key in given if key == "seed"], f"{path}, [set]")
    varied = {"seed", *study.grid, *(key for case in study.cases.values() for key in case)}
    if taken := sorted(varied & changes.keys()):
        raise FedShieldError(f"--set {taken[0]}: the study {study.name} sets it for each run; change {path}")
    for name, case in study.cases.items():
        if twice := [key for key in case if key in study.grid]:
            raise FedShieldError(f"{path}: {twice[0]} is set by [grid] and by case {name!r}; take one out")
    known: dict[str, list[Any]] = {**({"case": list(study.cases)} if study.cases else {}), **study.grid}
    for key, value in study.reference.items():
        if key not in known:
            raise FedShieldError(
                f"{path}: unknown key reference.{key}; the study varies {', '.join(known) or 'nothing'}"
            )
        if value not in known[key]:
            raise FedShieldError(f"{path}: reference.{key} = {value!r}: not a value of the study: {known[key]}")
