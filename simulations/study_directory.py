"""A study's directory: what its runs left, gathered in three CSV files, and their readers.

study.toml (the study, resolved)  runs/POINT/ (run directories)  runs/POINT.toml, .log, .code, .failed (why)
results.csv (a row for each planned run)  rounds.csv (for each evaluated round)  labels.csv (for each client and class)

In all three, the columns between the first and ``seed`` are what the study varies. In ``results.csv`` those between
``natural`` and ``worst`` are attacks; a run without figures has the reason in ``why``, and nothing else. Shares are in
[0, 1].
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config.flat import Scalar, flatten
from common.errors import FedShieldError, explain_os_errors
from common.files import replace_file
from common.links import refuse_links
from common.parsing import parse_toml

Row = dict[str, str]
Point = tuple[str, ...]  # the values of the varied columns

# Columns that a file must have; results.csv has those of trained runs or those of a study of partitions.
TRAINED = ("run", "seed", "rounds", "n", "natural", "worst", "seconds", "code", "processor", "threads")
DIVIDED = ("run", "seed", "clients", "images", "smallest", "largest", "classes", "distance", "code")
# The lowest accuracy for a client's own mixture of classes, natural and in the worst case of all attacks.
WORST_CLIENT = ("worst-client-natural", "worst-client")
# AUC of the strongest attack of fedshield privacy, on images of the pool and of the clients; only where it was run.
AUCS = ("auc-pool", "auc-clients")
EPSILON = "epsilon"  # of client-level differential privacy, after the last round; only of runs that have it
MEGABYTES = ("megabytes-sent", "megabytes-received")  # of the arrays in all messages
# Last in results.csv; earlier versions had none of these. The chance: a model that always names one class. The later
# attacks: by fedshield evaluate, which have lowered the worst case on the same images. The threat: radius and norm.
ADDED = (
    *("used", "available", "test-images", "chance", "later-attacks", "threat"),
    *(*WORST_CLIENT, *MEGABYTES, *AUCS, EPSILON, "why"),
)
_ROUNDS = ("run", "seed", "round", "n", "natural", "loss", "seconds")
_LABELS = ("point", "seed", "client", "class", "images")
_TEXT = {"run", "point", "class", "code", "processor", "later-attacks", "threat", "why"}
_WHOLE = {"seed", "n", "rounds", "round", "images", "used", "available", "test-images"}
_HINT = "give the folder of a study"


@dataclass(frozen=True)
class Heading:
    """What a table or figure of a study says of it; found in ``study.toml`` if that is next to the results.

    Attributes:
        title: of tables and figures.
        reference: the point against which differences are given: varied column -> value, as in the CSV files.
        recipe: the settings of all points, dotted keys; empty where there is no ``study.toml``.
        unit: what the runs are counted in.
        headline: the attack that figures show; "" where the study names none.
    """

    title: str
    reference: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Scalar] = field(default_factory=dict)
    unit: str = "round"
    headline: str = ""


def read_results(study_dir: Path) -> list[Row]:
    """Return the rows of the finished runs; as ``read_planned``."""
    return finished(read_planned(study_dir))


def finished(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that have figures."""
    return [row for row in rows if not row.get("why")]


def read_planned(study_dir: Path) -> list[Row]:
    """Return the rows of ``results.csv``, every cell as text; ``number`` turns one into a float.

    Raises:
        FedShieldError: there is none, it is not one that ``fedshield sweep`` wrote, or the directory, which may be
            another's, leads elsewhere.
    """
    refuse_links(study_dir)
    path = study_dir / "results.csv"
    rows = _read(path, (TRAINED, DIVIDED))
    if not finished(rows):
        reason = next((f" ({row['run']} {row['why']})" for row in rows if row["why"].startswith("failed")), "")
        raise FedShieldError(f"{path}: no run is finished yet{reason}; continue with: fedshield sweep")
    return rows


def finished_runs(study_dir: Path) -> list[str]:
    """Return the names of the runs in ``results.csv``; refuse one that no sweep wrote, before one writes over it."""
    path = study_dir / "results.csv"
    if not path.exists():
        return []
    hint = "move it away: it is then rebuilt from the runs"
    return [row["run"] for row in finished(_read(path, (TRAINED, DIVIDED), hint))]


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


def rate_columns(row: Row) -> list[str]:
    """Return the columns with accuracies, in order: ``natural``, each attack, ``worst``."""
    return ["natural", *attack_columns(row), "worst"]


def by_point(rows: Sequence[Row], keys: Sequence[str]) -> dict[Point, list[Row]]:
    """Return the rows of each point: those that are equal in the varied columns."""
    found: dict[Point, list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def number(row: Row, column: str) -> float | None:
    """Return a cell's number, or None where it is empty."""
    return float(row[column]) if row.get(column) else None


def numbers(rows: Sequence[Row], column: str) -> list[float]:
    """Return the numbers in a column, without the cells that are empty."""
    return [value for row in rows if (value := number(row, column)) is not None]


def chances(rows: Sequence[Row], labels: Sequence[Row]) -> list[float]:
    """Return the accuracies of always naming one class, in [0, 1], of all finished runs, each of them once.

    Args:
        rows: of ``results.csv``.
        labels: of ``labels.csv``, whose classes count where an earlier version stored no more: then the test images
            are taken to be as many of each.
    """
    if known := {value for row in finished(rows) if (value := number(row, "chance")) is not None}:
        return sorted(known)
    found: dict[str, set[str]] = {}
    for row in labels:
        found.setdefault(row["point"], set()).add(row["class"])
    return sorted({1 / len(names) for names in found.values()})


def read_heading(study_dir: Path) -> Heading:
    """Return what ``study.toml`` says of a study; without that file, the folder's name as its title."""
    path = study_dir / "study.toml"
    title = study_dir.absolute().name
    if not path.exists():
        return Heading(title)
    with explain_os_errors(path):
        content = path.read_bytes()
    try:
        tables = parse_toml(content)
        reference = {key: cell(value) for key, value in flatten(tables.get("reference", {})).items()}
        unit = "epoch" if tables.get("command") == "centralized" else "round"
        recipe, headline = flatten(tables.get("set", {})), str(tables.get("headline", ""))
        return Heading(str(tables.get("title", title)), reference, recipe, unit, headline)
    except (ValueError, AttributeError) as error:
        raise FedShieldError(f"{path}: not valid TOML: {error}; run the sweep again, which rewrites it") from error


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
    replace_file(path, text.getvalue().encode(errors="backslashreplace"))


def _read(path: Path, kinds: Sequence[Sequence[str]], hint: str = _HINT) -> list[Row]:
    """Read a CSV file that has all the columns of one of the ``kinds``."""
    if not path.is_file():
        raise FedShieldError(f"{path}: not found; give the folder of a study that fedshield sweep has run")
    with explain_os_errors(path):
        content = path.read_bytes()
    try:
        return _rows(content, kinds)
    except (UnicodeDecodeError, csv.Error) as error:
        raise FedShieldError(f"{path}: not a results file of FedShield (not CSV: {error}); {hint}") from error
    except _ForeignError as error:
        raise FedShieldError(f"{path}: not a results file of FedShield ({error}); {hint}") from error


class _ForeignError(Exception):
    """A file is not one that a sweep wrote; says why."""


def _rows(content: bytes, kinds: Sequence[Sequence[str]]) -> list[Row]:
    # A spreadsheet program puts a mark before the first column, and blank lines after the last row.
    lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    filled = [(number, cells) for number, cells in enumerate(lines, 1) if cells]
    header = filled[0][1] if filled else []
    kind = _check_header(header, kinds)
    rows, seen = [], dict[tuple[str, ...], int]()
    # What tells one row from another: what varies, the seed, and the round, or client and class.
    names = [*header[1 : header.index("seed") + 1], *(x for x in ("round", "client", "class") if x in kind)]
    for line, cells in filled[1:]:
        if len(cells) != len(header):
            raise _ForeignError(f"line {line} has {len(cells)} cells, the header {len(header)}")
        row = dict(zip(header, cells, strict=True))
        _check(line, row)
        first = seen.setdefault(tuple(row[name] for name in names), line)
        if first != line:
            raise _ForeignError(f"line {line} has the {', '.join(names)} of line {first}")
        rows.append(row)
    return rows


def _check_header(header: Sequence[str], kinds: Sequence[Sequence[str]]) -> Sequence[str]:
    """Return which of the kinds has these columns; refuse those of none, or in another order."""
    if not header:
        raise _ForeignError("empty")
    kind = min(kinds, key=lambda kind: len(set(kind) - set(header)))
    if missing := [name for name in kind if name not in header]:
        raise _ForeignError(f"no column {missing[0]}")
    if len(set(header)) != len(header):
        raise _ForeignError("two columns of one name")
    expected = [*kind, *(name for name in ADDED if name in header and kind in (TRAINED, DIVIDED))]
    row = dict.fromkeys(header, "")
    if "natural" in kind:
        at = expected.index("natural") + 1
        expected[at:at] = attack_columns(row)
    expected[1:1] = varied_columns(row)
    for name, there in zip(expected, header, strict=False):
        if name != there:
            raise _ForeignError(f"column {there} is in the place of {name}")
    if len(header) > len(expected):
        raise _ForeignError(f"unknown column {header[len(expected)]}")
    return kind


def _check(line: int, row: Row) -> None:
    """Refuse cells that no sweep writes, so that no wrong table is made from them."""
    shares = {"natural", *attack_columns(row), "worst", "chance", *AUCS} if "natural" in row else set()
    columns = list(row)
    for column in columns[columns.index("seed") :]:
        text = row[column]
        if column in _TEXT or (not text and column != "seed"):
            continue
        try:
            value = float(text)
        except ValueError:
            raise _ForeignError(f"line {line}: {column} = {text!r} is not a number") from None
        if column in shares and not 0 <= value <= 1:
            raise _ForeignError(f"line {line}: {column} = {text} is not a share from 0 to 1")
        if column in _WHOLE and not (text.isascii() and text.isdigit()):
            raise _ForeignError(f"line {line}: {column} = {text} is not a whole number")
        if not math.isfinite(value):
            raise _ForeignError(f"line {line}: {column} = {text} is not a finite number")
