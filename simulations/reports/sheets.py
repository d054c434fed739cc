"""Tables as text: for a terminal, which cuts nothing of them, and as Markdown. Nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from common.words import markdown, visible
from simulations.terminal.console import Terminal

_LABEL = 5  # characters of a name that stay together in any terminal
_NAME = 24  # characters of a name for which there is room, as long as one column of numbers fits beside it
_GAP = 2  # between two columns


@dataclass(frozen=True)
class Sheet:
    """A table before it is drawn.

    Attributes:
        title: its heading.
        header: names of the columns; the first ``names`` of them tell what varies.
        rows: cells.
        notes: what a reader must know to read the cells right.
        names: number of columns that name a point.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    names: int

    def rich(self, width: int) -> RenderableType:
        """Return the table for a terminal of this width, in characters.

        Where names would have to be broken for the numbers beside them, the columns are shown in several tables, each
        with the names.
        """
        parts = self._parts(width)
        tables = [self._drawn([*range(self.names), *part], width) for part in parts]
        tables[0].title = self.title
        tables[-1].caption = Text("\n".join(map(visible, self.notes)))
        return tables[0] if len(tables) == 1 else Group(*tables)

    def _parts(self, width: int) -> list[list[int]]:
        """Return the places of the columns of numbers, as many in each table as fit beside the names."""
        widths = [
            max(
                cell_len(line)
                for cell in (name, *(row[place] for row in self.rows))
                for line in stacked(cell).split("\n")
            )
            for place, name in enumerate(self.header)
        ]
        room = width - sum(min(_NAME, each) + _GAP for each in widths[: self.names]) - _GAP
        parts: list[list[int]] = [[]]
        used = 0
        for place in range(self.names, len(self.header)):
            used += widths[place] + _GAP
            if used > room and parts[-1]:
                parts.append([])
                used = widths[place] + _GAP
            parts[-1].append(place)
        return parts

    def _drawn(self, places: Sequence[int], width: int) -> Table:
        """Return a table of some columns."""
        columns = [Column(self.header[i], justify="left" if i < self.names else "right") for i in places]
        table = Table(*columns, box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
        table.title_justify = table.caption_justify = "left"
        for row in self.rows:
            cells = [visible(row[i]) for i in places]
            table.add_row(*(Text(stacked(x) if i >= self.names else x) for i, x in zip(places, cells, strict=True)))
        return whole(table, width, self.names)

    def markdown(self, level: int) -> str:
        """Return the table as Markdown, under a heading of this level."""
        rule = ["---" if i < self.names else "---:" for i in range(len(self.header))]
        header, *rows = ("| " + " | ".join(map(markdown, row)) + " |" for row in (self.header, *self.rows))
        notes = [f"- {markdown(note)}" for note in self.notes]
        heading = f"{level * '#'} {markdown(self.title)}"
        return "\n".join([heading, "", header, f"| {' | '.join(rule)} |", *rows, "", *notes]) + "\n"


def spread(values: Sequence[float], digits: int) -> str:
    """Return mean, sample standard deviation and range; one value if there is only one, or all are the same."""
    if not values:
        return "–"
    low, high = min(values), max(values)
    if len(values) == 1 or low == high:
        return f"{low:.{digits}f}"
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def stacked(cell: str) -> str:
    """Break a cell between its mean and its range or interval."""
    return cell.replace(" (", "\n(").replace(" [", "\n[")


def whole(table: Table, width: int, names: int = 1) -> Table:
    """Let a terminal of this width cut off nothing of a table; return it.

    Names may be broken anywhere, numbers never; if that is not enough, the table is wider than the terminal.

    Args:
        table: with all its rows.
        width: of the terminal.
        names: how many of its columns, the first ones, hold names.
    """
    foldable = 0
    for place, column in enumerate(table.columns):
        cells = [str(cell) for cell in (column.header, *column.cells)]
        widest = max(cell_len(line) for cell in cells for line in cell.split("\n"))
        column.overflow, column.no_wrap = "fold", place >= names
        column.min_width = min(widest, _LABEL) if place < names else widest
        if place < names:  # rich takes the longest word for the least
            foldable += max(0, max(cell_len(word) for cell in cells for word in cell.split()) - _LABEL)
    # Rich would make columns narrower than their least.
    least = Terminal(width=10_000).measure(table).minimum - foldable
    table.width = least if width < least else None
    return table
