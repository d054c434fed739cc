"""Charts with lines: accuracy over rounds, over epsilon, over a key of a study."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.paths import some_home
from simulations.reports.figures.style import (
    COLORS,
    DASHES,
    INK,
    SHAPES,
    Drawing,
    Record,
    chart,
    layered,
    legend,
    looks,
    rule,
)

with some_home():
    import altair as alt


def with_interval(rows: Sequence[Record], x: str, title: str, labels: Sequence[str], top: float) -> Drawing:
    """Draw accuracy with its 95 % interval over rounds or epsilon, a line for each measure.

    Args:
        rows: ``measure``, ``accuracy``, ``low``, ``high`` in per cent, ``n``, and a number under the name ``x``.
        x: ``round``, ``epoch`` or ``epsilon``.
        title: of the axis.
        labels: all measures, those of other panels too.
        top: where accuracy ends, in per cent.
    """
    whole = x != "epsilon"
    axis = _at_values([row[x] for row in rows]) if whole else alt.Axis()
    key = legend() if len(labels) > 1 else None
    base = chart(rows).encode(
        x=alt.X(f"{x}:Q", title=title, axis=axis, scale=alt.Scale(zero=not whole, nice=False, padding=8)),
        color=alt.Color("measure:N", scale=looks(labels, COLORS), legend=key),
        tooltip=[
            alt.Tooltip(f"{x}:Q", title=x),
            alt.Tooltip("measure:N", title="under"),
            alt.Tooltip("accuracy:Q", title="accuracy, %", format=".1f"),
            alt.Tooltip("low:Q", title="95 %, from", format=".1f"),
            alt.Tooltip("high:Q", title="to", format=".1f"),
            alt.Tooltip("n:Q", title="test images", format=","),
        ],
    )
    band = base.mark_area(opacity=0.15).encode(y=_accuracy("low:Q", top), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=_accuracy("accuracy:Q", top))
    dots = base.mark_point(filled=True, size=45, opacity=1).encode(
        y=_accuracy("accuracy:Q", top), shape=alt.Shape("measure:N", scale=looks(labels, SHAPES), legend=key)
    )
    return layered(band, line, dots)


@dataclass(frozen=True)
class Lines:
    """How the lines of a study are drawn.

    Attributes:
        x: what the axis is.
        pairs: ``first`` and ``second`` of each point of the study: color and shape say the first, dashes the second;
            without a second, all of them say the first.
        shown: the first of those that are drawn, in the order of the legend.
        top: where accuracy ends, in per cent.
        legend: its title.
        rings: draw each seed too.
        band: and a band from the lowest to the highest.
        log: a logarithmic axis.
        ordered: colors from dark to light, for lines of increasing numbers.
    """

    x: str
    pairs: Sequence[tuple[str, str]]
    shown: Sequence[str]
    top: float
    legend: str = ""
    rings: bool = False
    band: bool = False
    log: bool = False
    ordered: bool = False


def lines(rows: Sequence[Record], how: Lines) -> Drawing:
    """Draw lines of a study: the mean over the seeds.

    Args:
        rows: ``x``, ``name``, ``first``, ``second``, ``seed``, ``accuracy`` in per cent.
        how: they are drawn.
    """
    scale = alt.Scale(type="log" if how.log else "linear", zero=False, nice=False, padding=8)
    base = chart(rows).encode(
        x=alt.X("x:Q", title=how.x, axis=_at_values([row["x"] for row in rows]), scale=scale),
        detail="name:N",
        tooltip=[
            alt.Tooltip("name:N", title="point"),
            alt.Tooltip("x:Q", title=how.x),
            alt.Tooltip("count():Q", title="seeds"),
            alt.Tooltip("mean(accuracy):Q", title="mean accuracy, %", format=".1f"),
        ],
    )
    color, shape, dash = _looks(how)
    means = base.mark_line(strokeWidth=2).encode(y=_accuracy("mean(accuracy):Q", how.top), color=color, strokeDash=dash)
    dots = base.mark_point(filled=True, size=40, opacity=1).encode(
        y=_accuracy("mean(accuracy):Q", how.top), color=color, shape=shape
    )
    layers = [means, dots]
    if how.band:
        area = base.mark_area(opacity=0.15).encode(y=_accuracy("min(accuracy):Q", how.top), y2="max(accuracy):Q")
        layers.insert(0, area.encode(color=color))
    if how.rings:
        single = base.mark_point(size=25, strokeWidth=1).encode(
            y=_accuracy("accuracy:Q", how.top), color=color, tooltip=["name:N", "seed:N", "accuracy:Q"]
        )
        layers.append(single)
    return layered(*layers)


def _looks(how: Lines) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    """Return the color, shape and dashes of the lines."""
    first = list(dict.fromkeys(one for one, _ in how.pairs))
    second = [two for two in dict.fromkeys(two for _, two in how.pairs) if two]
    key = legend(how.legend) if len(how.shown) > 1 or second else None
    rising = alt.Scale(domain=list(how.shown), scheme=alt.SchemeParams(name="viridis", extent=[0, 0.92]))
    dashed = alt.StrokeDash("second:N", scale=looks(second, DASHES), legend=legend(stroke=2))
    if not second:
        each = len(first) if how.ordered else len(COLORS)
        dashed = alt.StrokeDash("first:N", scale=looks(first, DASHES, how.shown, each), legend=None)
    return (
        alt.Color("first:N", scale=rising if how.ordered else looks(first, COLORS, how.shown), legend=key),
        alt.Shape("first:N", scale=looks(first, SHAPES, how.shown), legend=key),
        dashed,
    )


def with_chance(drawing: Drawing, chance: float | None, top: float) -> Drawing:
    """Add what always naming one class would give, in [0, 1], where that is known."""
    if chance is None:
        return drawing
    y = alt.Y(datum=100 * chance, scale=_scale(top))
    word = alt.Chart().mark_text(text="chance", align="right", dy=-6, fontSize=10, color=INK)
    return layered(drawing, rule(y=y), word.encode(x=alt.value("width"), y=y))


def with_mark(drawing: Drawing, x: float, text: str) -> Drawing:
    """Add a dashed line at a value of the x axis, with a text next to it."""
    at = alt.X(datum=x)
    word = alt.Chart().mark_text(text=text, align="left", dx=4, dy=6, fontSize=10, color=INK)
    return layered(drawing, rule(x=at), word.encode(x=at, y=alt.value(0)))


def top_of(values: Sequence[float], *chances: float | None) -> float:
    """Return where an axis of accuracies ends, in per cent, so that panels side by side have the same.

    Args:
        values: that are drawn, in per cent.
        chances: that are drawn too, in [0, 1].
    """
    known = [*values, *(100 * chance for chance in chances if chance is not None)]
    return min(100.0, max(5.0, 1.03 * max(known, default=0.0)))


def _accuracy(field: str, top: float) -> alt.Y:
    return alt.Y(field, title="accuracy, %", scale=_scale(top))


def _scale(top: float) -> alt.Scale:
    return alt.Scale(domain=[0, top], nice=False)


def _at_values(values: Sequence[float]) -> alt.Axis:
    """Return an axis with ticks at values alone, at a dozen of them at most."""
    known = sorted(set(values))
    step = max(1, -(-len(known) // 12))
    return alt.Axis(values=known[::-step][::-1], format=".6~g", labelOverlap=True)
