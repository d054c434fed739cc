"""Where a live view is drawn in a notebook: an output below its cell, written again and empty at the end."""

import io
import sys
import time
from typing import Any

from rich.console import RenderableType

from simulations.terminal.console import Terminal

_EVERY = 0.5  # seconds; each drawing is a message to the browser, and kept in none
_WIDTH = 100
_BLOCK = '<pre style="line-height: normal; white-space: pre; overflow-x: auto">{code}</pre>'


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class NotebookOutput:
    """A part of a cell's output that is replaced while the cell runs.

    Args:
        view: what is drawn.
    """

    def __init__(self, view: RenderableType) -> None:
        self._view = view
        self._handle: Any = None
        self._drawn = 0.0

    def start(self) -> None:
        """Make room for it."""
        from IPython.display import display

        self._handle = display(_Html(""), display_id=True)  # type: ignore[no-untyped-call]

    def refresh(self) -> None:
        """Draw the view as it is now, if the last drawing is not too young."""
        if self._handle is not None and time.monotonic() > self._drawn + _EVERY:
            self._drawn = time.monotonic()
            self._handle.update(_Html(drawn(self._view)))

    def stop(self) -> None:
        """Leave nothing of it; the lines of the log stay."""
        if self._handle is not None:
            self._handle.update(_Html(""))


class _Html:
    """What a notebook shows as HTML."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return ""

    def _repr_html_(self) -> str:
        return self._text


def drawn(view: RenderableType) -> str:
    """Return a view as HTML, its text escaped."""
    canvas = Terminal(file=io.StringIO(), record=True, width=_WIDTH, force_jupyter=False, color_system="truecolor")
    canvas.print(view)
    return canvas.export_html(inline_styles=True, code_format=_BLOCK)
