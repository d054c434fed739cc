"""The parts of a report, and its HTML file."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jinja2
import vl_convert

from common.words import visible
from simulations.reports.figures.style import Figure, page_spec
from simulations.reports.sheets import Sheet

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fact:
    """A figure that is read before anything else.

    Attributes:
        label: what it is.
        value: the figure.
        detail: its interval, or what a reader needs to judge it.
    """

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Code:
    """A command, as it is typed."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Chart:
    """A figure with values under the pointer.

    Attributes:
        spec: of Vega-Lite.
        caption: what is drawn.
    """

    kind: ClassVar[str] = "chart"
    spec: Mapping[str, Any]
    caption: str


def charts(figure: Figure) -> "list[Block]":
    """Return a chart for each panel of a figure: side by side they would be too narrow for a telephone."""
    several = len(figure.panels) > 1
    return [
        Chart(page_spec(panel), f"{panel.title}: {figure.caption}" if several else figure.caption)
        for panel in figure.panels
    ]


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        header: names of the columns.
        rows: their cells.
        names: how many columns, from the left, are words; the others are numbers.
        notes: what a reader must know to read the cells right.
        title: above it, where there are several.
    """

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    notes: Sequence[str] = ()
    title: str = ""


def of_sheet(sheet: Sheet | None) -> "list[Block]":
    """Return a table with all that a sheet says; nothing without one."""
    return [] if sheet is None else [Table(sheet.header, sheet.rows, sheet.names, sheet.notes, sheet.title)]


@dataclass(frozen=True)
class Picture:
    """An image, what the attack adds and the adversarial image, each as a data URI, and what the model says of two."""

    natural: str
    added: str
    adversarial: str
    truth: str
    before: str
    after: str


@dataclass(frozen=True)
class Gallery:
    """Adversarial images to page through."""

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Picture]
    caption: str


Block = Text | Code | Chart | Table | Gallery


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: of the run or study.
        lead: what it is, in a sentence.
        facts: the headline's figures.
        warnings: what limits them; shown before everything else.
        sections: the rest.
    """

    title: str
    lead: str
    facts: Sequence[Fact]
    warnings: Sequence[str]
    sections: Sequence[Section]


def _shown(value: object) -> object:
    """Return what a template prints; marks that change the direction of writing, and the like, are spelled out."""
    return visible(value, "\n\t") if type(value) is str else value  # Markup is the page's own


def render(page: Page, refresh: int = 0) -> str:
    """Return the HTML file: it loads nothing, and draws its figures itself.

    Args:
        page: its parts.
        refresh: seconds after which a browser reads the file again; 0 for never.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    # A browser reads no NaN, and would draw nothing.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}
    sections = [section for section in page.sections if section.blocks]
    drawn = any(block.kind == "chart" for section in sections for block in section.blocks)
    text = environment.get_template("page.html").render(
        page=page,
        refresh=refresh,
        sections=sections,
        style=(HERE / "page.css").read_text("utf-8"),
        script=(HERE / "page.js").read_text("utf-8"),
        vega=_vega() if drawn else "",
    )
    return text.encode(errors="backslashreplace").decode()  # a name of a file may have bytes that are no letters


@functools.cache
def _vega() -> str:
    # The name of a closing tag in a string of the library would end the script.
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
