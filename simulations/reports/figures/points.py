"""Names of a study's points, and which of them belong together."""

import math
from collections.abc import Sequence

from simulations.reports.figures.style import COLORS, DASHES
from simulations.study_directory import Row

Values = tuple[str, ...]
Table = dict[str, list[float]]


def pair_of(keys: Sequence[str], values: Values, points: Sequence[Values]) -> tuple[str, str]:
    """Return what color and what dashes say of a point.

    Of two keys, colors show the first and dashes the second, if it has few values; otherwise colors show both.

    Args:
        keys: of the points.
        values: of one of them.
        points: all that are drawn together.
    """
    if _paired(points):
        return say(keys[0], values[0]), say(keys[1], values[1])
    return name_point(keys, values) or "all", ""


def _paired(points: Sequence[Values]) -> bool:
    if not points or len(points[0]) != 2:
        return False
    first, second = (len({values[place] for values in points}) for place in (0, 1))
    return 1 < first <= len(COLORS) and 1 < second <= len(DASHES)


def name_point(keys: Sequence[str], values: Sequence[str]) -> str:
    """Name a point: words as they are, numbers with the last part of their key, unless there is only one key."""
    if len(keys) == 1:
        return values[0]
    return ", ".join(say(key, value) for key, value in zip(keys, values, strict=True))


def name_group(keys: Sequence[str], group: Sequence[Values]) -> str:
    """Name points together, by the keys in which they agree where there are any."""
    agreed = [place for place in range(len(keys)) if len({values[place] for values in group}) == 1]
    if agreed:
        return name_point([keys[place] for place in agreed], [group[0][place] for place in agreed])
    names = [name_point(keys, values) for values in group]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"


def divisions(labels: Sequence[Row], keys: Sequence[str]) -> list[tuple[Table, list[Values]]]:
    """Return each different table, class -> its images at each client, with the points that have it."""
    tables: dict[Values, Table] = {}
    for row in labels:
        table = tables.setdefault(tuple(row[key] for key in keys), {})
        table.setdefault(row["class"], []).append(float(row["images"]))
    found: list[tuple[Table, list[Values]]] = []
    for values, table in tables.items():
        group = next((group for known, group in found if known == table), None)
        if group is None:
            found.append((table, group := []))
        group.append(values)
    return found


def say(key: str, value: str) -> str:
    """Return a value as words: a number with the last part of its key."""
    return f"{key.rsplit('.', 1)[-1]} {value}" if is_number(value) or value in {"true", "false"} else value


def is_number(text: str) -> bool:
    """Return whether a cell holds a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
