"""Charts without lines: tables of shades, accuracy by class and of the points of a study, images."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from common.paths import some_home
from simulations.reports.figures.style import (
    COLORS,
    INK,
    SHAPES,
    Drawing,
    Record,
    chart,
    layered,
    legend,
    lettered,
    looks,
    rule,
)

with some_home():
    import altair as alt

_SHADE = COLORS[0]
_MOST_NUMBERS = 16  # more columns than that leave no room for numbers in the cells
_MOST_NAMES = 40  # more rows or columns than that have room for some of their names alone
_DOTTED = [1, 3]


def shares(
    counts: Mapping[str, Sequence[float]], columns: Sequence[str], across: str, down: str, percent: bool = False
) -> Drawing:
    """Draw a table of counts as shades, the darker the larger its share of the row.

    Args:
        counts: row -> its count in each column; in their order.
        columns: in their order.
        across: name of what the columns are.
        down: name of what the rows are.
        percent: write shares of the row into the cells, not counts.
    """
    rows = [
        {"across": name, "down": line, "count": count, "share": count / max(1, sum(own))}
        for line, own in counts.items()
        for name, count in zip(columns, own, strict=True)
    ]
    base = chart(rows).encode(
        x=alt.X("across:N", title=across, sort=list(columns), axis=_names(columns, labelAngle=-40)),
        y=alt.Y("down:N", title=down, sort=list(counts), axis=_names(counts)),
        tooltip=[
            alt.Tooltip("down:N", title=down),
            alt.Tooltip("across:N", title=across),
            alt.Tooltip("count:Q", title="images", format=","),
            alt.Tooltip("share:Q", title="of the row", format=".1%"),
        ],
    )
    # So light that numbers in the page's ink can be read on it.
    opacity = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.03, 0.75]), legend=None)
    drawn: alt.Chart = base.mark_rect(color=_SHADE).encode(opacity=opacity)
    if len(columns) > _MOST_NUMBERS:
        return drawn
    shown = alt.Text("share:Q", format=".0%") if percent else alt.Text("count:Q", format=",")
    numbers = base.transform_filter("datum.count > 0").mark_text(fontSize=10.5, color=INK).encode(text=shown)
    return layered(drawn, numbers)


def heat(cells: Sequence[Record], down: Sequence[str], across: Sequence[str]) -> Drawing:
    """Draw accuracies as shades with their numbers.

    Args:
        cells: ``down``, ``across``, ``accuracy`` in per cent, and the same as text, ``mean``, rounded as in the tables;
            a cell that is not there stays empty.
        down: names of the rows.
        across: names of the columns.
    """
    base = chart(cells).encode(
        x=alt.X(
            "across:N",
            title=None,
            sort=list(across),
            axis=_names(across, labelAngle=-40),
            scale=alt.Scale(domain=list(across)),
        ),
        y=alt.Y("down:N", title=None, sort=list(down), axis=_names(down), scale=alt.Scale(domain=list(down))),
        tooltip=[
            alt.Tooltip("down:N", title="row"),
            alt.Tooltip("across:N", title="column"),
            alt.Tooltip("mean:N", title="accuracy, %"),
        ],
    )
    most = max([1.0, *(cell["accuracy"] for cell in cells)])
    opacity = alt.Opacity("accuracy:Q", scale=alt.Scale(domain=[0, most], range=[0.03, 0.75]), legend=None)
    numbers = base.mark_text(fontSize=10.5, color=INK).encode(text="mean:N")
    return layered(base.mark_rect(color=_SHADE).encode(opacity=opacity), numbers)


def by_class(rows: Sequence[Record], classes: Sequence[str]) -> Drawing:
    """Draw accuracy by class, a dot for each attack.

    Args:
        rows: ``class``, ``measure``, ``accuracy`` in per cent.
        classes: in their order.
    """
    labels = list(dict.fromkeys(row["measure"] for row in rows))
    dots = chart(rows).mark_point(filled=True, size=70, opacity=0.9)
    drawn: alt.Chart = dots.encode(
        x=alt.X("accuracy:Q", title="accuracy, %", scale=alt.Scale(domainMin=0)),
        y=alt.Y("class:N", sort=list(classes), axis=alt.Axis(grid=True, gridDash=_DOTTED)),
        color=alt.Color("measure:N", scale=looks(labels, COLORS), legend=legend()),
        shape=alt.Shape("measure:N", scale=looks(labels, SHAPES), legend=legend()),
        tooltip=[
            alt.Tooltip("class:N"),
            alt.Tooltip("measure:N", title="under"),
            alt.Tooltip("accuracy:Q", title="accuracy, %", format=".1f"),
        ],
    )
    return drawn


def of_seeds(rows: Sequence[Record], names: Sequence[str], dashed: float | None = None) -> Drawing:
    """Draw the points of a study: a ring for each seed, a diamond and a number for their mean.

    Args:
        rows: ``name``, ``seed``, ``accuracy`` in per cent, none where a point has no figures; the first row of a point
            has its ``mean`` as text, rounded as in the tables.
        names: of the points, from the top.
        dashed: an accuracy in per cent, of the point with which the others are compared.
    """
    axis = alt.Axis(grid=True, gridDash=_DOTTED, labelLimit=260, labelExpr=lettered(34))
    known = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    low, high = (pick(known, default=0) for pick in (min, max))
    # Room around the rings, but none for an accuracy below 0.
    floor = 0 if low <= 0.05 * (high - low) else alt.Undefined
    scale = alt.Scale(zero=False, padding=12, domainMin=floor)
    base = chart(rows).encode(y=alt.Y("name:N", title=None, scale=alt.Scale(domain=list(names)), axis=axis))
    measured = base.transform_filter("isValid(datum.accuracy)")
    seeds = measured.mark_point(size=50, color=COLORS[0]).encode(
        x=alt.X("accuracy:Q", title="accuracy, %", scale=scale),
        tooltip=[
            alt.Tooltip("name:N", title="point"),
            alt.Tooltip("seed:N"),
            alt.Tooltip("accuracy:Q", title="accuracy, %", format=".2f"),
        ],
    )
    means = measured.mark_point(shape="diamond", filled=True, size=90, color=COLORS[1], opacity=1).encode(
        x=alt.X("mean(accuracy):Q", title="accuracy, %", scale=scale),
        tooltip=[
            alt.Tooltip("name:N", title="mean of"),
            alt.Tooltip("count():Q", title="seeds"),
            alt.Tooltip("mean(accuracy):Q", title="accuracy, %", format=".2f"),
        ],
    )
    numbers = base.transform_filter("datum.mean").mark_text(align="left", dx=4, fontSize=10.5, color=INK)
    numbers = numbers.encode(x=alt.value("width"), text="mean:N")
    layers = [means, seeds, numbers]
    if len(known) < len(rows):
        lack = base.transform_filter("!isValid(datum.accuracy)").mark_text(align="left", color=INK, fontSize=10.5)
        layers.append(lack.encode(x=alt.value(4), text=alt.value("no figures")))
    return layered(*layers, *([] if dashed is None else [rule(x=alt.X(datum=dashed, scale=scale))]))


def pictures(cells: Sequence[Record], lines: Sequence[str], size: int) -> Drawing:
    """Draw images in lines and columns, with words below each.

    Args:
        cells: ``line``, ``column``, ``url`` of the image, ``words``, and ``good``: whether they say the truth, or null.
        lines: in their order.
        size: of a side of an image, in pixels.
    """
    base = chart(cells).encode(
        x=alt.X("column:O", axis=None, scale=alt.Scale(paddingInner=0.1)),
        y=alt.Y("line:N", sort=list(lines), title=None, scale=alt.Scale(padding=0.1),
                axis=alt.Axis(domain=False, ticks=False, labelLimit=120, labelPadding=8)),
    )  # fmt: skip
    images = base.mark_image(width=size, height=size).encode(url="url:N")
    words = base.transform_filter("datum.words").mark_text(
        dy=size / 2 + 8, fontSize=9.5, lineBreak="\n", limit=size + 6
    )
    truth = alt.condition("datum.good", alt.value(COLORS[2]), alt.value(COLORS[1]))
    return layered(images, words.encode(text="words:N", color=truth))


def _names(names: Collection[str], **options: Any) -> alt.Axis:
    """Return an axis with all names that have room on it."""
    return alt.Axis(labelLimit=150, grid=False, labelOverlap=len(names) > _MOST_NAMES, **options)
