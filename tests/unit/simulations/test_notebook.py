"""The live view in a notebook."""

from rich.text import Text

from simulations.terminal.console import Terminal
from simulations.terminal.live_view import LiveView
from simulations.terminal.notebook import drawn, in_notebook


def test_a_view_is_html_in_which_nothing_is_markup() -> None:
    view = LiveView(Terminal(force_jupyter=False), "round", 5, 0, "<b>first</b>", clients=3)
    view.show(2, 0.5, "client 2/3")
    view.client(1, 1.25, 1)
    html = drawn(view)
    assert html.startswith("<pre ")
    assert "round 2/5  client 2/3" in html
    assert "1 ✓ 1.2 s" in html
    shown = drawn(Text("<script>\x1b[2J"))
    assert "&lt;script&gt;" in shown
    assert "\x1b" not in shown


def test_a_terminal_is_no_notebook() -> None:
    assert not in_notebook()
