"""A chart of two numbers of each point of a study, with bars in both directions."""

from collections.abc import Sequence

from common.paths import some_home
from simulations.reports.figures.style import COLORS, SHAPES, Drawing, Record, chart, layered, legend, looks

with some_home():
    import altair as alt


def scatter(
    rows: Sequence[Record], x: str, names: Sequence[str], shown: Sequence[str], top: float, *, log: bool = False
) -> Drawing:
    """Draw accuracy against another number, a mark for each point of a study.

    Args:
        rows: ``name``, ``seeds``, ``x``, ``x-low``, ``x-high``, and ``accuracy``, ``low``, ``high`` in per cent.
        x: what the axis is.
        names: of all points of the study.
        shown: those that a legend names, in its order.
        top: where accuracy ends, in per cent.
        log: a logarithmic axis.
    """
    across = alt.Scale(type="log" if log else "linear", zero=False, nice=False, padding=12)
    along = alt.Scale(domain=[0, top], nice=False)
    base = chart(rows).encode(color=alt.Color("name:N", scale=looks(names, COLORS, shown), legend=legend()))
    at_x, at_y = alt.X("x:Q", title=x, scale=across), alt.Y("accuracy:Q", title="accuracy, %", scale=along)
    bars = base.mark_rule(strokeWidth=1.5)
    marks = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=at_x,
        y=at_y,
        shape=alt.Shape("name:N", scale=looks(names, SHAPES, shown), legend=legend()),
        tooltip=[
            alt.Tooltip("name:N", title="point"),
            alt.Tooltip("x:Q", title=x, format=".3~g"),
            alt.Tooltip("accuracy:Q", title="mean accuracy, %", format=".1f"),
            alt.Tooltip("seeds:Q", title="seeds"),
        ],
    )
    return layered(
        bars.encode(x=alt.X("x-low:Q", title=x, scale=across), x2="x-high:Q", y=at_y),
        bars.encode(x=at_x, y=alt.Y("low:Q", title="accuracy, %", scale=along), y2="high:Q"),
        marks,
    )
