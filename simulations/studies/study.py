"""Study files: a grid of configurations, and its points."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from common.attacks.threat import AttackSpec, Bounded
from common.config.flat import Flat, Scalar, default_config, merge, read_tables, read_toml, toml_lines
from common.config.schema import RunConfig, parse_config
from common.config.values import AUTO
from common.errors import FedShieldError
from common.words import near
from simulations.shipped import PRESETS, SWEEPS, find_file, names_in
from simulations.studies.study_file import (
    check_changes,
    check_twice,
    chosen_by_sweep,
    read_cases,
    read_grid,
    read_headline,
    read_reference,
    read_seeds,
    read_set,
)

COMMANDS = ("run", "centralized", "partitions")

_KEYS = ("title", "command", "base", "seeds", "headline", "reference", "set", "grid", "case")


@dataclass(frozen=True)
class Study:
    """A study file, checked except for the configurations of its points.

    Attributes:
        name: the file's stem.
        title: heading of tables and figures.
        command: what each point runs, one of ``COMMANDS``.
        seeds: the seeds of every point.
        settings: the complete configuration that the points change.
        grid: key -> its values.
        cases: name -> what it sets; empty for a study without cases.
        reference: the point against which paired differences are given: ``case`` or key of the grid -> value.
        headline: the attack that figures show; "" for the last one of those that all points have.
    """

    name: str
    title: str
    command: str
    seeds: tuple[int, ...]
    settings: Flat
    grid: dict[str, list[Scalar]]
    cases: dict[str, Flat]
    reference: Flat
    headline: str = ""

    @property
    def planned(self) -> int:
        """How many runs the study has."""
        return len(self.seeds) * max(1, len(self.cases)) * prod(len(values) for values in self.grid.values())


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
    return find_file(file, SWEEPS, "give a study file, or one of the studies")


def load_study(file: Path, changes: Flat | None = None) -> Study:
    """Read a study file.

    Args:
        file: its path, or the name of a shipped one.
        changes: laid over the file's ``[set]``.

    Raises:
        FedShieldError: one line that names the file and the key.
    """
    path = find_study(file)
    tables = read_tables(path)
    for key in tables:
        if key not in _KEYS:
            raise FedShieldError(f"{path}: unknown key {key}{near(key, _KEYS)}")
    command = tables.get("command", "run")
    if command not in COMMANDS:
        raise FedShieldError(
            f"{path}: command = {command!r}: unknown; allowed: {', '.join(COMMANDS)}{near(str(command), COMMANDS)}"
        )
    settings = merge(_base(path, tables.get("base")), read_set(path, tables), f"{path}, [set]")
    grid, cases = read_grid(path, tables), read_cases(path, tables)
    check_twice(path, grid, cases)
    check_changes(path, changes or {}, grid, cases)
    return Study(
        name=path.stem,
        title=str(tables.get("title", path.stem)),
        command=command,
        seeds=read_seeds(path, tables.get("seeds")),
        settings=merge(settings, changes or {}, "--set"),
        grid=grid,
        cases=cases,
        reference=read_reference(path, tables, grid, cases),
        headline=read_headline(path, tables),
    )


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
                if study.command != "centralized":
                    config.check_division()
            except FedShieldError as error:
                raise FedShieldError(f"study {study.name}, run {name}: {error}") from error
            # As the configuration has it: 0 and 0.0 are one value of a share.
            varied: Flat = {"case": case} if case else {}
            varied |= {key: config.flat()[key] for key in study.grid}
            found.append(Point(name, varied, seed, config))
    _check_headline(study, found)
    names = [point.name for point in found]
    for name in names:
        if names.count(name) > 1:
            raise FedShieldError(f"study {study.name}: two runs are named {name}; let their values differ more")
    return found


def _check_headline(study: Study, points: Sequence[Point]) -> None:
    """Refuse an attack that some point is not measured with."""
    for point in points if study.headline else ():
        if study.headline not in (known := point.config.final_attacks()):
            raise FedShieldError(
                f"study {study.name}, run {point.name}: headline = {study.headline!r}: not one of its final attacks: "
                f"{', '.join(known)}{near(study.headline, known)}"
            )


def with_headline(study: Study, points: Sequence[Point]) -> Study:
    """Return the study with the attack that its figures show, so that they show the same one to its end.

    That is the last within a budget of those that all points have. Of images of the user's own, nobody knows here
    whether they have the classes for AutoAttack, so that ``auto`` says nothing.
    """
    if study.headline or study.command == "partitions":
        return study
    unknown = any(
        p.config.data.name in {"folder", "split"} and p.config.evaluate.final_attacks == (AUTO,) for p in points
    )
    lists = [] if unknown else [point.config.final_attacks() for point in points]
    attacks = [label for label in (lists[0] if lists else ()) if isinstance(AttackSpec.parse(label).family, Bounded)]
    common = [label for label in attacks if all(label in each for each in lists)]
    return replace(study, headline=common[-1] if common else "")


def study_toml(study: Study) -> str:
    """Return the study as a file that needs no other."""
    head = {"title": study.title, "command": study.command, "seeds": study.seeds}
    lines = toml_lines(head | ({"headline": study.headline} if study.headline else {}))
    settings = {key: value for key, value in study.settings.items() if not chosen_by_sweep(key)}
    tables: list[tuple[str, Mapping[str, Any]]] = [("[set]", settings)]
    if study.reference:
        tables.insert(0, ("[reference]", study.reference))
    if study.grid:
        tables.append(("[grid]", study.grid))
    tables += [("[[case]]", {"name": name, **changes}) for name, changes in study.cases.items()]
    for heading, table in tables:
        lines += ["", heading, *toml_lines(table)]
    return "\n".join(lines) + "\n"


def config_toml(config: RunConfig) -> str:
    """Return a complete configuration file."""
    return "\n".join(toml_lines(config.flat())) + "\n"


def _name(varied: Flat, seed: int) -> str:
    parts = [f"{key}={json.dumps(value).strip(chr(34))}" for key, value in varied.items()]
    stem = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", ",".join(parts))
    if len(stem) > 180:  # a file name has 255 bytes at most
        stem = f"{stem[:160]}_{sha256(stem.encode()).hexdigest()[:8]}"
    return f"{stem}-seed{seed}" if stem else f"seed{seed}"


def _base(path: Path, base: object) -> Flat:
    """Return the complete configuration that ``base`` names: a file in the study file's folder, or a preset.

    That of a run that had a name, or was continued, serves too: the sweep chooses these.
    """
    flat = default_config()
    if base is None:
        return flat
    files = [path.parent / str(base), PRESETS / f"{base}.toml"]
    for file in files:
        if file.is_file():
            chosen = {key: value for key, value in flat.items() if chosen_by_sweep(key)}
            return {**merge(flat, read_toml(file), str(file)), **chosen}
    known = names_in(PRESETS)
    raise FedShieldError(
        f"{path}: base = {base!r}: no file {files[0]}, nor a preset of that name; presets: {', '.join(known)}"
        f"{near(str(base), known)}"
    )
