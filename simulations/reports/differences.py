"""Each point of a study less the reference point of the same seed."""

from collections.abc import Mapping, Sequence

from common.statistics import t_interval
from simulations.reports.sheets import Sheet
from simulations.study_directory import Point, Row, by_point, finished, number, rate_columns, varied_columns

Pair = tuple[Row, Row]


def pairs(rows: Sequence[Row], reference: Mapping[str, str]) -> dict[Point, list[Pair]]:
    """Return the finished runs of each compared point, each with the reference's run of the same seed.

    Args:
        rows: of ``results.csv``.
        reference: varied column -> value; points are compared that differ in these columns alone.
    """
    keys = varied_columns(rows[0])
    by_seed = {(*(row[key] for key in keys), row["seed"]): row for row in finished(rows)}
    points, found = by_point(rows, keys), {}
    for point, planned in points.items():
        other = tuple(reference.get(key, value) for key, value in zip(keys, point, strict=True))
        if other == point or other not in points:
            continue
        done = finished(planned)
        found[point] = [(row, by_seed[*other, row["seed"]]) for row in done if (*other, row["seed"]) in by_seed]
    return found


def difference_sheet(rows: Sequence[Row], reference: Mapping[str, str]) -> Sheet | None:
    """Return what each point has more than the reference point of the same seed, in percentage points.

    Args:
        rows: of ``results.csv``.
        reference: varied column -> value; points are compared that differ in these columns alone.

    Returns:
        None where there is nothing to compare.
    """
    keys, rates = varied_columns(rows[0]), rate_columns(rows[0])
    points, cells = by_point(rows, keys), []
    for point, compared in (found := pairs(rows, reference)).items():
        planned = len(points[point])
        count = str(planned) if len(compared) == planned else f"{len(compared)} of {planned}"
        cells.append([*point, count, *(_difference(compared, rate) for rate in rates)])
    if not any(found.values()):
        return None
    against = ", ".join(f"{key} = {value}" for key, value in reference.items())
    notes = [
        "percentage points, each seed against the same seed of the reference: mean [95 % t-interval over the seeds]",
        "the intervals are about training seeds, not test images, which are the same for all; one seed has none",
        f"{len(cells)} comparison{'s' * (len(cells) > 1)} with the reference: where there is no difference, one 95 % "
        "interval in twenty excludes 0 by chance",
    ]
    if any(row[len(keys)].startswith("0 of") for row in cells):
        notes.append("–: the point, or its reference, has no figures; the table above says why")
    return Sheet(f"Difference from {against}", [*keys, "seeds", *rates], cells, notes, len(keys))


def differences(compared: Sequence[Pair], rate: str) -> list[float]:
    """Return the differences of one figure, in percentage points, where both have it."""
    values = [(number(row, rate), number(other, rate)) for row, other in compared]
    return [100 * (here - there) for here, there in values if here is not None and there is not None]


def _difference(compared: Sequence[Pair], rate: str) -> str:
    values = differences(compared, rate)
    if not values:
        return "–"
    found = t_interval(values)
    if found is None:
        return _signed(values[0])
    return signed_interval(found)


def signed_interval(found: tuple[float, float, float]) -> str:
    """Return a difference in points with its interval: ``+8.7 [+6.3, +11.1]``."""
    mean, low, high = map(_signed, found)
    return f"{mean} [{low}, {high}]"


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if text in ("-0.0", "+0.0") else text
