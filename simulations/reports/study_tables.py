"""Tables of a study, from its ``results.csv`` alone: for the terminal, and as ``tables.md``."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.data.cuts import out_of
from common.files import replace_file
from common.statistics import sampling_error
from common.words import some
from simulations.reports.accuracy import share
from simulations.reports.differences import difference_sheet
from simulations.reports.formats import as_markdown
from simulations.reports.joint_intervals import joint_differences, joint_sheets
from simulations.reports.sheets import Sheet, spread
from simulations.reports.study_costs import cost_sheets
from simulations.reports.study_privacy import privacy_sheets
from simulations.study_directory import (
    Row,
    by_point,
    chances,
    finished,
    number,
    numbers,
    rate_columns,
    read_heading,
    read_labels,
    read_planned,
    varied_columns,
)

_NAMED = 12  # points without figures that a note names
ROUGH = 1000  # test images up to which a table calls its figures rough


def make_tables(study_dir: Path) -> list[Sheet]:
    """Return a study's tables.

    Raises:
        FedShieldError: there is no ``results.csv``, or it is not one that a sweep wrote.
    """
    rows, heading = read_planned(study_dir), read_heading(study_dir)
    if "natural" not in rows[0]:
        return [partition_sheet(heading.title, rows)]
    accuracy = accuracy_sheet(heading.title, rows, chances(rows, read_labels(study_dir)))
    sheets = [accuracy, *joint_sheets(rows), *privacy_sheets(rows), *cost_sheets(rows)]
    if not heading.reference:
        return sheets
    if differences := difference_sheet(rows, heading.reference):
        return [*sheets, differences, *joint_differences(rows, heading.reference)]
    there = any(all(row.get(key) == value for key, value in heading.reference.items()) for row in finished(rows))
    lack = "no finished run to compare with the reference yet" if there else "no finished run of the reference yet"
    return [replace(accuracy, notes=[*accuracy.notes, lack]), *sheets[1:]]


def write_tables(study_dir: Path, sheets: Sequence[Sheet]) -> Path:
    """Write tables to ``tables.md``, and return its path."""
    replace_file(study_dir / "tables.md", as_markdown(sheets).encode())
    return study_dir / "tables.md"


def accuracy_sheet(title: str, rows: Sequence[Row], guessing: Sequence[float] = ()) -> Sheet:
    """Return natural and robust accuracy of each point over its seeds.

    Args:
        title: of the study.
        rows: as in ``read_planned``.
        guessing: as in ``chances``.
    """
    keys, rates = varied_columns(rows[0]), rate_columns(rows[0])
    header = [*keys, "seeds", "n", *(f"{rate} %" for rate in rates)]
    cells = []
    for point, planned in by_point(rows, keys).items():
        found = finished(planned)
        images = sorted({int(n) for row in found if (n := number(row, "n")) is not None})
        spreads = [spread([100 * x for x in numbers(found, rate)], 1) for rate in rates]
        cells.append([*point, _seeds(planned), _range(images), *spreads])
    notes = ["mean ± standard deviation over the seeds (lowest–highest); n: test images of each run"]
    notes += [f"chance: {tell_chances(guessing)} (always the most frequent class)"] if guessing else []
    notes += _threat_notes(rows)
    return Sheet(title, header, cells, [*notes, *lacking(rows), *_notes(finished(rows))], len(keys))


def _threat_notes(rows: Sequence[Row]) -> list[str]:
    """Say within which radius and norm the points were attacked, as far as the file tells."""
    keys = varied_columns(rows[0])
    points: dict[str, list[str]] = {}
    attacked = finished(rows) if len(rate_columns(rows[0])) > 2 else []  # natural and worst are always there
    for point, found in by_point(attacked, keys).items():
        for threat in dict.fromkeys(row["threat"] for row in found if row.get("threat")):
            points.setdefault(threat, []).append(", ".join(point) or "the only point")
    if len(points) < 2:
        return [f"attacks within {threat}" for threat in points]
    told = [f"attacks within {threat}: {some(which, _NAMED, '; ')}" for threat, which in points.items()]
    return [*told, "figures under attack that are within different radii or norms do not compare"]


def tell_chances(guessing: Sequence[float]) -> str:
    """``10.0 %``, or the lowest and the highest."""
    return f"{' to '.join(dict.fromkeys(share(value) for value in (guessing[0], guessing[-1])))} %"


def lacking(rows: Sequence[Row]) -> list[str]:
    """Say how many of the planned runs and points have figures, and which have none, and why; nothing if all have.

    Args:
        rows: as in ``read_planned``.
    """
    if len(done := finished(rows)) == len(rows):
        return []
    keys = varied_columns(rows[0])
    points = by_point(rows, keys)
    whole = sum(len(finished(planned)) == len(planned) for planned in points.values())
    told = [f"{len(done)} of {len(rows)} runs have figures; {whole} of {len(points)} points have them for all seeds"]
    names: dict[str, list[str]] = {}
    for point, planned in points.items():
        reasons = Counter(row["why"] for row in planned if row.get("why"))
        for reason, count in reasons.items():
            partly = f" ({count} of {len(planned)} runs)" if count < len(planned) else ""
            names.setdefault(reason, []).append(f"{', '.join(point) or 'the only point'}{partly}")
    for reason, which in names.items():
        told.append(f"no figures of {some(which, _NAMED, '; ')}: {reason}")
    return told


def _seeds(planned: Sequence[Row]) -> str:
    done = len(finished(planned))
    return str(done) if done == len(planned) else f"{done} of {len(planned)}"


def partition_sheet(title: str, rows: Sequence[Row]) -> Sheet:
    """Return how large and how skewed the clients' shards are."""
    keys = varied_columns(rows[0])
    columns = {"clients": 0, "images": 0, "smallest": 1, "largest": 1, "classes": 1, "distance": 3}
    cells = [
        [*point, _seeds(found), *(spread(numbers(found, name), digits) for name, digits in columns.items())]
        for point, found in by_point(rows, keys).items()
    ]
    notes = [
        "mean ± standard deviation over the seeds (lowest–highest); smallest, largest: a client's training images",
        "classes: mean number of classes at a client; distance: mean total-variation distance, from 0 to 1, of a "
        "client's shares of the classes from those of all clients together",
    ]
    done = finished(rows)
    return Sheet(
        title,
        [*keys, "seeds", *columns],
        cells,
        [*notes, *lacking(rows), *_image_notes(done), *_code_notes(done)],
        len(keys),
    )


def _range(values: Sequence[int]) -> str:
    return "–".join(f"{value:,}" for value in dict.fromkeys([values[0], values[-1]])) if values else "–"


def _notes(rows: Sequence[Row]) -> list[str]:
    """Return what limits the figures: few test images, several versions of the code, several machines."""
    notes = []
    images = [int(n) for n in numbers(rows, "n") if n > 0]
    if images:
        half = sampling_error(min(images))
        notes.append(
            f"95 % interval of a figure for the sample of {min(images):,} test images: ± {half:.1f} points at most"
        )
    if any(n <= ROUGH for n in images):
        notes.append(f"{ROUGH:,} test images or fewer: a rough figure")
    machines = dict.fromkeys(f"{row['processor']}, threads = {row['threads']}" for row in rows)
    hours = sum(numbers(rows, "seconds")) / 3600
    notes.append(f"{len(rows)} runs, {hours:.1f} hours of computing in all, on {'; '.join(machines)}")
    return notes + _later_notes(rows) + _image_notes(rows) + _code_notes(rows)


def _later_notes(rows: Sequence[Row]) -> list[str]:
    """Say which runs were attacked more than the others, which lowers their worst case alone."""
    later = [row for row in rows if row.get("later-attacks")]
    labels = dict.fromkeys(label for row in later for label in row["later-attacks"].split())
    told = (
        f"worst: {len(later)} of {len(rows)} runs were evaluated again later, with {', '.join(labels)}; what that broke"
    )
    return [f"{told} of the same images counts"] if later else []


def _image_notes(rows: Sequence[Row]) -> list[str]:
    """Say where a limit has left out images, as far as the file tells."""
    trained = {(int(row["used"]), int(row["available"])) for row in rows if row.get("used") and row.get("available")}
    tested = {(int(row["n"]), int(row["test-images"])) for row in rows if row.get("test-images") and row.get("n")}
    notes = []
    for what, key, found in (
        ("training images", "data.max-examples", trained),
        ("test images", "evaluate.final-examples", tested),
    ):
        if cut := sorted(pair for pair in found if pair[0] < pair[1]):
            notes.append(f"{what} of a run: {' or '.join(out_of(*pair) for pair in cut)} ({key})")
    return notes


def _code_notes(rows: Sequence[Row]) -> list[str]:
    versions = {version for row in rows for version in row["code"].split("+") if version}
    return [f"rows come from {len(versions)} versions of the code"] if len(versions) > 1 else []
