"""Figures of a report: Vega-Lite, with values under the pointer, in the colours of the page around them."""

from collections.abc import Mapping, Sequence
from typing import Any

from common.paths import some_home
from simulations.reports.figures.run_figures import LINE_COLOURS

with some_home():
    import altair as alt

Spec = dict[str, Any]
Record = Mapping[str, Any]

_INK = "currentColor"  # the page's, light or dark
_FAINT = "#8886"
_SHADE = LINE_COLOURS[0]
_LEGEND = alt.Legend(title=None, orient="top", columns=4, labelLimit=240)
_MOST_NUMBERS = 16  # more columns than that leave no room for numbers in the cells


def over_rounds(rows: Sequence[Record], unit: str) -> Spec:
    """Draw accuracy over rounds with 95 % intervals.

    Args:
        rows: ``round``, ``measure``, ``accuracy``, ``low``, ``high`` in per cent, and ``n``.
        unit: ``round`` or ``epoch``.
    """
    return _with_interval(rows, "round", unit, "measure", whole=True)


def over_epsilon(rows: Sequence[Record]) -> Spec:
    """Draw robust accuracy over epsilon with 95 % intervals.

    Args:
        rows: ``epsilon`` in 1/255, ``attack``, ``accuracy``, ``low``, ``high`` in per cent, and ``n``.
    """
    return _with_interval(rows, "epsilon", "epsilon, 1/255 of the pixel range (Linf)", "attack")


def _with_interval(rows: Sequence[Record], x: str, title: str, colour: str, whole: bool = False) -> Spec:
    labels = list(dict.fromkeys(row[colour] for row in rows))
    axis = _at_values([row[x] for row in rows]) if whole else alt.Axis()
    base = _chart(rows).encode(
        x=alt.X(f"{x}:Q", title=title, axis=axis, scale=alt.Scale(zero=not whole, nice=False, padding=8)),
        color=_colour(colour, labels),
        tooltip=[
            alt.Tooltip(f"{x}:Q", title=x),
            alt.Tooltip(f"{colour}:N", title=colour),
            alt.Tooltip("accuracy:Q", title="accuracy, %", format=".1f"),
            alt.Tooltip("low:Q", title="95 %, from", format=".1f"),
            alt.Tooltip("high:Q", title="to", format=".1f"),
            alt.Tooltip("n:Q", title="test images", format=","),
        ],
    )
    y = alt.Y("accuracy:Q", title="accuracy, %", scale=alt.Scale(domainMin=0))
    band = base.mark_area(opacity=0.13).encode(y=alt.Y("low:Q", title="accuracy, %"), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y)
    dots = base.mark_point(filled=True, size=45, opacity=1).encode(y=y, shape=_shape(colour, labels))
    return _done(band + line + dots, height=300)


def shares(counts: Mapping[str, Sequence[float]], columns: Sequence[str], across: str, down: str) -> Spec:
    """Draw a table of counts as shades, the darker the larger its share of the row.

    Args:
        counts: row -> its count in each column; in their order.
        columns: in their order.
        across: name of what the columns are.
        down: name of what the rows are.
    """
    rows = [
        {"across": name, "down": line, "count": count, "share": count / max(1, sum(own))}
        for line, own in counts.items()
        for name, count in zip(columns, own, strict=True)
    ]
    base = _chart(rows).encode(
        x=alt.X("across:N", title=across, sort=list(columns), axis=alt.Axis(labelAngle=-40, orient="bottom")),
        y=alt.Y("down:N", title=down, sort=list(counts)),
        tooltip=[
            alt.Tooltip("down:N", title=down),
            alt.Tooltip("across:N", title=across),
            alt.Tooltip("count:Q", title="images", format=","),
            alt.Tooltip("share:Q", title="of the row", format=".1%"),
        ],
    )
    opacity = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.03, 0.95]), legend=None)
    drawn: alt.Chart | alt.LayerChart = base.mark_rect(color=_SHADE).encode(opacity=opacity)
    if len(columns) <= _MOST_NUMBERS:
        numbers = base.transform_filter("datum.count > 0").mark_text(color=_INK, fontSize=11)
        drawn = drawn + numbers.encode(text=alt.Text("count:Q", format=","))
    return _done(drawn, height=max(140, 24 * len(counts)))


def by_class(rows: Sequence[Record], classes: Sequence[str]) -> Spec:
    """Draw accuracy by class, a dot for each attack.

    Args:
        rows: ``class``, ``measure``, ``accuracy`` in per cent.
        classes: in their order.
    """
    labels = list(dict.fromkeys(row["measure"] for row in rows))
    dots = _chart(rows).mark_point(filled=True, size=70, opacity=0.9)
    drawn = dots.encode(
        x=alt.X("accuracy:Q", title="accuracy, %", scale=alt.Scale(domainMin=0)),
        y=alt.Y("class:N", sort=list(classes), axis=alt.Axis(grid=True, gridDash=[1, 3])),
        color=_colour("measure", labels),
        shape=_shape("measure", labels),
        tooltip=[
            alt.Tooltip("class:N"),
            alt.Tooltip("measure:N", title="under"),
            alt.Tooltip("accuracy:Q", title="accuracy, %", format=".1f"),
        ],
    )
    return _done(drawn, height=max(120, 22 * len(classes)))


def of_seeds(rows: Sequence[Record], names: Sequence[str]) -> Spec:
    """Draw the points of a study: a ring for each seed, a diamond for their mean.

    Args:
        rows: ``name``, ``seed``, ``accuracy`` in per cent.
        names: of the points, from the top.
    """
    axis = alt.Axis(grid=True, gridDash=[1, 3], labelLimit=260)
    y = alt.Y("name:N", title=None, scale=alt.Scale(domain=list(names)), axis=axis)
    low, high = (pick((row["accuracy"] for row in rows), default=0) for pick in (min, max))
    # Room beside the rings, but none for an accuracy below 0.
    floor = 0 if low <= 0.05 * (high - low) else alt.Undefined
    scale = alt.Scale(zero=False, padding=12, domainMin=floor)
    base = _chart(rows).encode(y=y)
    seeds = base.mark_point(size=50, color=_SHADE).encode(
        x=alt.X("accuracy:Q", title="accuracy, %", scale=scale),
        tooltip=[
            alt.Tooltip("name:N", title="point"),
            alt.Tooltip("seed:N"),
            alt.Tooltip("accuracy:Q", title="accuracy, %", format=".2f"),
        ],
    )
    means = base.mark_point(shape="diamond", filled=True, size=90, color=LINE_COLOURS[1], opacity=1).encode(
        x=alt.X("mean(accuracy):Q", title="accuracy, %", scale=scale),
        tooltip=[
            alt.Tooltip("name:N", title="mean of"),
            alt.Tooltip("count():Q", title="seeds"),
            alt.Tooltip("mean(accuracy):Q", title="accuracy, %", format=".2f"),
        ],
    )
    return _done(means + seeds, height=max(120, 24 * len(names)))


def lines(rows: Sequence[Record], x: str, points: bool) -> Spec:
    """Draw lines of a study: the mean over the seeds.

    Args:
        rows: ``x``, ``name``, ``seed``, ``accuracy`` in per cent.
        x: what the axis is.
        points: draw each seed too.
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    base = _chart(rows).encode(
        x=alt.X("x:Q", title=x, axis=_at_values([row["x"] for row in rows]), scale=alt.Scale(zero=False, nice=False)),
        color=_colour("name", names),
    )
    means = base.mark_line(point=alt.OverlayMarkDef(size=40), strokeWidth=2).encode(
        y=alt.Y("mean(accuracy):Q", title="accuracy, %", scale=alt.Scale(domainMin=0)),
        tooltip=[
            alt.Tooltip("name:N", title="point"),
            alt.Tooltip("x:Q", title=x),
            alt.Tooltip("count():Q", title="seeds"),
            alt.Tooltip("mean(accuracy):Q", title="mean accuracy, %", format=".1f"),
        ],
    )
    rings = base.mark_point(size=25, strokeWidth=1).encode(y="accuracy:Q", tooltip=["seed:N", "accuracy:Q"])
    return _done(means + rings if points else means, height=300)


def _chart(rows: Sequence[Record]) -> alt.Chart:
    return alt.Chart(alt.InlineData([dict(row) for row in rows]))


def _at_values(values: Sequence[float]) -> alt.Axis:
    """Return an axis with ticks at values alone, at a dozen of them at most."""
    known = sorted(set(values))
    step = -(-len(known) // 12)
    return alt.Axis(values=known[::-step][::-1], format="~g")


def _colour(field: str, labels: Sequence[str]) -> alt.Color:
    palette = [LINE_COLOURS[place % len(LINE_COLOURS)] for place in range(len(labels))]
    # Black lines cannot be seen on a dark page.
    palette = ["#9a9a9a" if colour == "#000000" else colour for colour in palette]
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=list(labels), range=palette), legend=_LEGEND)


def _shape(field: str, labels: Sequence[str]) -> alt.Shape:
    shapes = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
    found = [shapes[place % len(shapes)] for place in range(len(labels))]
    return alt.Shape(f"{field}:N", scale=alt.Scale(domain=list(labels), range=found), legend=_LEGEND)


def _done(chart: alt.Chart | alt.LayerChart, height: int) -> Spec:
    text: dict[str, Any] = {"labelColor": _INK, "titleColor": _INK}
    font = 'system-ui, "DejaVu Sans", sans-serif'
    drawn = chart.properties(width="container", height=height).configure(
        background="transparent",
        font=font,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(**text, domainColor=_FAINT, tickColor=_FAINT, gridColor="#8883", titleFontWeight="normal"),
        legend=alt.LegendConfig(**text, symbolStrokeWidth=2, symbolOpacity=1),
    )
    found: Spec = drawn.to_dict()
    return found
