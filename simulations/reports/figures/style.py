"""How figures look: colors, shapes and dashes, and a figure of several panels as Vega-Lite.

One definition serves the report, where a panel is as wide as the page and has the page's colors, and PNG and SVG
files, where the panels are side by side with a title above them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from common.paths import some_home

with some_home():
    import altair as alt

Spec = dict[str, Any]
Record = Mapping[str, Any]
Drawing = alt.Chart | alt.LayerChart

# Okabe and Ito's palette, with a gray, a purple and a brown that color-blind readers can tell from the others; without
# its yellow, which nobody sees on white, and its black, which nobody sees on a dark page.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#595959", "#C030F0", "#7A3B1E")
# As many as make 99 different lines with nine colors; who sees no color has eleven.
SHAPES = (
    *("circle", "square", "triangle-up", "diamond", "triangle-down", "cross"),
    "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z",  # x
    *("triangle-left", "triangle-right"),
    "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z",  # hexagon
    "M0,-1L.3,-.3L1,0L.3,.3L0,1L-.3,.3L-1,0L-.3,-.3Z",  # star
)
DASHES = ([1, 0], [6, 3], [2, 2])
INK = "currentColor"  # the page's, light or dark; black in a file
FAINT = "#888888"
WIDTH = 760  # pixels of a file, before it is magnified
LEGEND = 26  # characters on a line of a legend

_WRAPPED = (
    r"slice(split(replace(replace(datum.label, regexp('(.{{1,{letters}}})(\\s+|$)', 'g'), '$1\n'), "
    r"regexp('\\n$'), ''), '\n'), 0, 3)"
)


@dataclass(frozen=True)
class Panel:
    """A drawing with its own axes.

    Attributes:
        title: what it shows, where there are several.
        drawing: without a size.
        height: in pixels, of what is inside the axes.
    """

    title: str
    drawing: Drawing
    height: int


@dataclass(frozen=True)
class Figure:
    """Panels of one kind.

    Attributes:
        panels: one or more.
        title: of all; none where the place says what it is.
        caption: what is drawn, and from how much.
        margin: pixels of a file that legend and names at the side take from the panels.
        columns: panels side by side.
        names_once: the names at the left are the same for all panels.
    """

    panels: Sequence[Panel]
    title: str
    caption: str
    margin: int
    columns: int
    names_once: bool = False


def page_spec(panel: Panel) -> Spec:
    """Return a panel for a report: as wide as the page, its legend above it."""
    drawn = panel.drawing.properties(width="container", height=panel.height)
    found: Spec = _configured(drawn, "system-ui, DejaVu Sans, sans-serif", "transparent", "top", 4).to_dict()
    return found


def file_spec(figure: Figure) -> Spec:
    """Return a figure for a file: panels side by side, with one legend at the right."""
    columns = min(figure.columns, len(figure.panels))
    width = max(110, (WIDTH - figure.margin) // columns - 50)
    panels = []
    for place, panel in enumerate(figure.panels):
        named = panel.drawing.properties(width=width, height=panel.height)
        if len(figure.panels) > 1:
            named = named.properties(title=wrap(panel.title, max(14, width // 6)))
        panels.append(_without_names(named) if figure.names_once and place % columns else named)
    words = wrap(figure.caption, 125)
    told: Any = (
        alt.Undefined
        if not figure.title and not words
        else alt.TitleParams(text=wrap(figure.title, 95), subtitle=words, subtitlePadding=4, anchor="start", offset=12)
        if figure.title
        else alt.TitleParams(text=words, fontSize=10.5, fontWeight="normal", anchor="start", offset=12)
    )
    drawn = alt.concat(*panels, columns=columns, title=told)
    drawn = drawn.resolve_scale(color="shared", shape="shared", strokeDash="shared", opacity="shared")
    found: Spec = _configured(drawn, "Liberation Sans, Arial, sans-serif", "white", "right", 1).to_dict()
    return found


def lettered(letters: int) -> str:
    """Return the expression of Vega that breaks a name into lines of ``letters`` characters, three lines at most."""
    return _WRAPPED.format(letters=letters)


def legend(title: str = "", stroke: float = 0) -> alt.Legend:
    """Return a legend that leaves out no name; ``stroke``: of its symbols, which dashes would fray."""
    return alt.Legend(title=title or None, symbolLimit=0, labelExpr=lettered(LEGEND), symbolStrokeWidth=stroke)


def looks(labels: Sequence[str], kinds: Sequence[Any], shown: Sequence[str] = (), each: int = 1) -> alt.Scale:
    """Return a color, a shape or dashes for each label; when there are no more, they are repeated.

    Args:
        labels: all that are ever shown together, so that none looks different when another one is missing.
        kinds: ``COLORS``, ``SHAPES`` or ``DASHES``.
        shown: those that a legend names, in its order; all if not given.
        each: how many labels in turn have the same.
    """
    given = {label: kinds[place // each % len(kinds)] for place, label in enumerate(labels)}
    names = list(shown or labels)
    return alt.Scale(domain=names, range=[given[name] for name in names])


def chart(rows: Sequence[Record]) -> alt.Chart:
    """Return a chart of rows, which it holds itself."""
    return alt.Chart(alt.InlineData([dict(row) for row in rows]))


def layered(*drawings: Drawing) -> alt.LayerChart:
    """Return drawings in layers, the first one at the bottom."""
    return alt.LayerChart(layer=list(drawings))


def rule(**at: Any) -> alt.Chart:
    """Return a dashed line across a drawing, where ``at`` says."""
    drawn: alt.Chart = alt.Chart().mark_rule(color=FAINT, strokeDash=[4, 3]).encode(**at)
    return drawn


def _without_names(drawing: Drawing) -> Drawing:
    """Return a drawing whose y axis has no names: those of the panel at its left count for it too."""
    copy = drawing.copy(deep=True)
    for layer in getattr(copy, "layer", [copy]):
        if isinstance(y := layer.encoding.y, alt.Y):
            y["axis"] = alt.Axis(labels=False, title=None, ticks=False)
    return copy


def _configured(chart: alt.TopLevelMixin, font: str, background: str, orient: Any, columns: int) -> alt.TopLevelMixin:
    text: dict[str, Any] = {"labelColor": INK, "titleColor": INK}
    configured: alt.TopLevelMixin = chart.configure(
        background=background,
        font=font,
        padding=8,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            **text, domainColor=FAINT, tickColor=FAINT, gridColor="#88888840", titleFontWeight="normal",
            labelFontSize=11,
        ),
        legend=alt.LegendConfig(
            **text, symbolOpacity=1, orient=orient, columns=columns, labelLimit=240,
            labelFontSize=11, titleFontWeight="normal",
        ),
        title=alt.TitleConfig(color=INK, subtitleColor=INK, fontSize=12, subtitleFontSize=10.5, lineHeight=15),
    )  # fmt: skip
    return configured
