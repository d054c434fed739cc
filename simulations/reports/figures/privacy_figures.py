"""The trade-off of a study: accuracy against what the models tell about their training images, and against epsilon."""

from collections.abc import Sequence
from statistics import fmean

from simulations.reports.figures.line_charts import top_of, with_chance, with_mark
from simulations.reports.figures.measured import Measured, Rows
from simulations.reports.figures.points import name_point
from simulations.reports.figures.scatter import scatter
from simulations.reports.figures.style import LEGEND, Figure, Panel
from simulations.reports.study_privacy import AUC_OF
from simulations.study_directory import EPSILON, Row, number

_DRAWN = "Mark: the mean of {} seeds; bars: from the lowest to the highest"
_WIDE = 10  # times, from which an axis is logarithmic


def privacy_figures(measured: Measured, title: str, guessing: Sequence[float]) -> dict[str, Figure]:
    """Return ``privacy``, accuracy against the AUC of membership inference, and ``epsilon``, accuracy against epsilon.

    Args:
        measured: the rows of ``results.csv`` by point.
        title: of the study.
        guessing: as in ``chances``.

    Returns:
        By name; without a figure for which no run has a number.
    """
    areas = {column: f"AUC, {what}" for column, what in AUC_OF.items()}
    drawn = {
        "privacy": _figure(measured, areas, "an AUC", title, guessing),
        "epsilon": _figure(measured, {EPSILON: EPSILON}, "an epsilon", title, guessing),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _figure(
    measured: Measured, columns: dict[str, str], what: str, title: str, guessing: Sequence[float]
) -> Figure | None:
    """Return a panel for each column and measure, with a mark for each point that has both.

    Args:
        measured: as above, and so are ``title`` and ``guessing``.
        columns: column -> what the axis is.
        what: a point needs, for the caption.
        title: of the study.
        guessing: as in ``chances``.
    """
    found = {
        (x, name): _marks(measured, column, accuracy)
        for column, x in columns.items()
        for name, accuracy in measured.measures.items()
    }
    found = {key: rows for key, rows in found.items() if rows}
    if not found:
        return None
    chance = guessing[0] if len(guessing) == 1 else None
    top = top_of([row["high"] for rows in found.values() for row in rows], chance)
    names = [name_point(measured.keys, values) or "all" for values in measured.rows]
    there = {row["name"] for rows in found.values() for row in rows}
    shown = [name for name in names if name in there]
    panels = []
    for (x, name), rows in found.items():
        lowest, highest = min(row["x-low"] for row in rows), max(row["x-high"] for row in rows)
        wide = 0 < _WIDE * lowest < highest
        drawing = with_chance(scatter(rows, x, names, shown, top, log=wide), chance, top)
        if x != EPSILON:
            drawing = with_mark(drawing, 0.5, "guessing")
        panels.append(Panel(f"{name}, {x}" if len(columns) > 1 else name, drawing, max(230, 17 * len(shown) // 2)))
    less = f"; {len(there)} of {len(names)} points have {what}" if len(there) < len(names) else ""
    return Figure(
        panels, title, measured.note(_DRAWN) + less, 40 + 6 * max(min(LEGEND, len(name)) for name in shown), 2
    )


def _marks(measured: Measured, column: str, accuracy: str) -> Rows:
    """Return mean, lowest and highest of both numbers over the runs of each point that have them; accuracy in %."""
    found: Rows = []
    for values, rows in measured.rows.items():
        if both := [pair for row in rows if (pair := _pair(row, column, accuracy)) is not None]:
            xs, ys = zip(*both, strict=True)
            found.append({
                **{"name": name_point(measured.keys, values) or "all", "seeds": len(both)},
                **{"x": fmean(xs), "x-low": min(xs), "x-high": max(xs)},
                **{"accuracy": fmean(ys), "low": min(ys), "high": max(ys)},
            })  # fmt: skip
    return found


def _pair(row: Row, column: str, accuracy: str) -> tuple[float, float] | None:
    x, y = number(row, column), number(row, accuracy)
    return None if x is None or y is None else (x, 100 * y)
