"""A study's directory: what its runs left, gathered in three CSV files, and their readers.

study.toml (the study, resolved)  runs/POINT/ (run directories)  runs/POINT.toml, .log, .code
results.csv (a row for each finished run)  rounds.csv (for each evaluated round)  labels.csv (for each client and class)

In all three, the columns between the first and ``seed`` are what the study varies. In ``results.csv`` those between
``natural`` and ``worst`` are attacks. Shares are in [0, 1].
"""

import csv
import io
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import FedShieldError, explain_os_errors
from common.flat import Scalar, flatten
from server.files import replace_file

Row = dict[str, str]

# Columns that a file must have; results.csv has those of trained runs or those of a study of partitions.
TRAINED = ("run", "seed", "rounds", "n", "natural", "worst", "seconds", "code", "processor", "threads")
DIVIDED = ("run", "seed", "clients", "images", "smallest", "largest", "classes", "distance", "code")
_ROUNDS = ("run", "seed", "round", "n", "natural", "loss", "seconds")
_LABELS = ("point", "seed", "client", "class", "images")
_TEXT = {"run", "point", "class", "code", "processor"}


@dataclass(frozen=True)
class Heading:
    """What a table or figure of a study says of it; found in ``study.toml`` where that is beside the results.

    Attributes:
        title: of tables and figures.
        reference: the point against which differences are given: varied column -> value, as in the CSV files.
        recipe: the settings of all points, dotted keys; empty where there is no ``study.toml``.
    """

    title: str
    reference: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Scalar] = field(default_factory=dict)


def read_results(study_dir: Path) -> list[Row]:
    """Return the rows of ``results.csv``, every cell as text; ``number`` turns one into a float.

    Raises:
        FedShieldError: there is none, or it is not one that ``fedshield sweep`` wrote.
    """
    path = study_dir / "results.csv"
    rows = _read(path, (TRAINED, DIVIDED))
    if not rows:
        raise FedShieldError(f"{path}: no run is finished yet; go on with: fedshield sweep")
    return rows


def check_results(study_dir: Path) -> None:
    """Refuse a ``results.csv`` that no sweep wrote, before one writes over it."""
    if (study_dir / "results.csv").exists():
        _read(study_dir / "results.csv", (TRAINED, DIVIDED))


def read_rounds(study_dir: Path) -> list[Row]:
    """Return the rows of ``rounds.csv``: each run's evaluated rounds; none where the file is not there."""
    path = study_dir / "rounds.csv"
    return _read(path, (_ROUNDS,)) if path.exists() else []


def read_labels(study_dir: Path) -> list[Row]:
    """Return the rows of ``labels.csv``: images of each class at each client; none where the file is not there."""
    path = study_dir / "labels.csv"
    return _read(path, (_LABELS,)) if path.exists() else []


def varied(study_dir: Path) -> list[str]:
    """Return the columns of ``results.csv`` that the study varies, without the seed: ``case`` or configuration keys."""
    return varied_columns(read_results(study_dir)[0])


def varied_columns(row: Row) -> list[str]:
    """Return what the study varies, from a row of any of its files."""
    columns = list(row)
    return columns[1 : columns.index("seed")]


def attack_columns(row: Row) -> list[str]:
    """Return the attacks, from a row of ``results.csv`` (trained runs) or ``rounds.csv``."""
    columns = list(row)
    end = "worst" if "worst" in columns else "loss"
    return columns[columns.index("natural") + 1 : columns.index(end)]


def number(row: Row, column: str) -> float | None:
    """Return a cell's number, or None where it is empty."""
    return float(row[column]) if row[column] else None


def read_heading(study_dir: Path) -> Heading:
    """Return title and reference from ``study.toml``; without that file, the folder's name and no reference."""
    path = study_dir / "study.toml"
    title = study_dir.absolute().name
    if not path.exists():
        return Heading(title)
    with explain_os_errors(path):
        content = path.read_bytes()
    try:
        tables = tomllib.loads(content.decode())
        reference = {key: cell(value) for key, value in flatten(tables.get("reference", {})).items()}
        return Heading(str(tables.get("title", title)), reference, flatten(tables.get("set", {})))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise FedShieldError(f"{path}: not valid TOML: {error}; start the sweep again, which writes it anew") from error


def cell(value: Any) -> str:
    """Return a value as the CSV files have it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a CSV file, atomically; a value that a row lacks is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(row.get(column)) for column in columns] for row in rows)
    replace_file(path, text.getvalue().encode())


def _read(path: Path, kinds: Sequence[Sequence[str]]) -> list[Row]:
    """Read a CSV file that has all the columns of one of the ``kinds``."""
    if not path.is_file():
        raise FedShieldError(f"{path}: not there; give the folder of a study that fedshield sweep has run")
    with explain_os_errors(path):
        content = path.read_bytes()
    try:
        lines = list(csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _foreign(path, f"not CSV: {error}") from error
    header = lines[0] if lines else []
    if not header:
        raise _foreign(path, "empty")
    missing = min(([name for name in kind if name not in header] for kind in kinds), key=len)
    if missing:
        raise _foreign(path, f"no column {missing[0]}")
    if len(set(header)) != len(header):
        raise _foreign(path, "two columns of one name")
    rows = []
    for line, cells in enumerate(lines[1:], 2):
        if len(cells) != len(header):
            raise _foreign(path, f"line {line} has {len(cells)} cells, the header {len(header)}")
        rows.append(dict(zip(header, cells, strict=True)))
        _check(path, line, rows[-1])
    return rows


def _check(path: Path, line: int, row: Row) -> None:
    """Refuse cells that no sweep writes, rather than draw a wrong table from them."""
    shares = {"natural", *attack_columns(row), "worst"} if "natural" in row else set()
    columns = list(row)
    for column in columns[columns.index("seed") :]:
        text = row[column]
        if column in _TEXT or (not text and column != "seed"):
            continue
        try:
            value = float(text)
        except ValueError:
            raise _foreign(path, f"line {line}: {column} = {text!r} is not a number") from None
        if column in shares and not 0 <= value <= 1:
            raise _foreign(path, f"line {line}: {column} = {text} is not a share from 0 to 1")


def _foreign(path: Path, reason: str) -> FedShieldError:
    return FedShieldError(f"{path}: not a results file of FedShield ({reason}); give the folder of a study")
