"""What others have written, at the borders of this program: a terminal, a log, Markdown."""

import html
import io
import logging
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.table import Table
from rich.text import Text

from common.words import in_one_line, markdown, visible, without_folders
from server.app import _Lines
from simulations.reports.sheets import Sheet
from simulations.terminal.console import Output, Terminal, log_to

# Clears the screen, sets the title, the same in one byte (C1), turns the direction, hides, ends a line, has no code.
OBEYED = (
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\x9b2J",
    "\u202egnp.exe",
    "a\u200bb",
    "one\r\ntwo\x85\u2028",
    "\udcff",
    "\x00\x7f",
)


@pytest.mark.parametrize("text", OBEYED)
def test_what_a_terminal_obeys_is_spelled_out(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(text).encode("ascii").decode("unicode_escape") == text
    assert in_one_line(text).isprintable()


def test_letters_of_all_languages_stay_as_they_are() -> None:
    text = "Käfer 甲虫 жук خنفساء भृंग 🪲 1\u202f000\u00a0€ [red] \\x1b"
    assert visible(text) == text
    assert visible("a\nb\tc", "\n") == "a\nb\\tc"
    assert in_one_line("a \n\n b\tc" + 1000 * "d").startswith("a b cddd")
    assert len(in_one_line(1000 * "\x1b")) < 510


MARKUP = "[red]ant[/red]", "[/bold]", ":bug:", "[link=file:passwd]here[/link]"


def printed(terminal: bool, *shown: object) -> str:
    out = io.StringIO()
    console = Terminal(file=out, force_terminal=terminal, width=200, color_system="truecolor" if terminal else None)
    for each in shown:
        console.print(each)
    # Colors are rich's own.
    return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()) if terminal else out.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_prints_text_as_text_wherever_it_stands(terminal: bool) -> None:
    for word in (*OBEYED, *MARKUP):
        table = Table(word, title=word, caption=word)
        table.add_row(word)
        sheet = Sheet(word, [word, "%"], [[word, "54.2 [51.1, 57.3]"]], [word], 1)
        for shown in (word, Path(word.replace("\0", "")), Text(word), table, sheet.rich(200)):
            told = printed(terminal, shown)
            assert told.replace("\n", "").isprintable(), (word, shown)
            name = visible(word.replace("\0", "")) if isinstance(shown, Path) else visible(word)
            if isinstance(shown, str | Path):
                assert told == f"{name}\n"
            elif not isinstance(shown, Text):
                assert name in told, shown


def test_a_column_is_as_wide_as_what_is_seen() -> None:
    table = Table("class", "n")
    table.add_row("\x1b[2J", "1")
    table.add_row("[red]ant[/red]", "2")
    assert len({len(line) for line in printed(False, table).splitlines()}) == 1


@pytest.mark.parametrize("output", [Output.PLAIN, Output.QUIET])
def test_log_lines_stay_lines(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("fedshield")
    before, propagate, level = log.handlers, log.propagate, log.level
    try:
        log_to(Terminal(), output)
        log.warning("client %d: %s", 3, "broken\nround 8/8  natural 99.9 %\x1b[2J [/bold]")
    finally:
        log.handlers, log.propagate = before, propagate
        log.setLevel(level)
    told = capsys.readouterr()
    assert (told.err or told.out) == "client 3: broken\\nround 8/8  natural 99.9 %\\x1b[2J [/bold]\n"


def test_the_server_apps_own_log_stays_lines_too() -> None:
    record = logging.LogRecord("fedshield", logging.INFO, "", 0, "class %s", ("a\x1b[2J\nb",), None)
    assert _Lines().format(record) == "class a\\x1b[2J\\nb"


RENDER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
SIGNS = st.text(st.sampled_from("ab \\`*_{}[]()<>#+-.!|~&$;:/\"'=\n\t\x1b1"), max_size=12)


@given(SIGNS)
@example("<img src=x onerror=alert(1)>")
@example("[click](javascript:alert(1))")
@example("![x][y]: http://z")
@example("&lt;b&gt; a | b\n\n# c")
@example("`a` ~~b~~ __c__ <!-- d")
@example("https://example.org <https://example.org>")
def test_markdown_shows_the_text_itself(text: str) -> None:
    shown = visible(" ".join(text.split()))
    heading = RENDER.render(f"# It is x{markdown(text)}x\n")
    assert html.unescape(heading) == f"<h1>It is x{shown}x</h1>\n"
    table = RENDER.render(f"| a | b |\n|---|---|\n| x{markdown(text)}x | y |\n")
    assert [html.unescape(cell) for cell in re.findall(r"<td>(.*)</td>", table)] == [f"x{shown}x", "y"]


def test_a_studys_tables_hold_hostile_names_in_their_cells() -> None:
    names = ["a|b", "<script>alert(1)</script>", "two\nlines", "[x](http://y)"]
    sheet = Sheet("T <b>", ["case | x", "%"], [[name, "54.2 [51.1, 57.3]"] for name in names], ["on <i>"], 1)
    drawn = RENDER.render(sheet.markdown(1))
    assert "<b>" not in drawn
    assert "<i>" not in drawn
    cells = [html.unescape(cell) for cell in re.findall(r"<td.*?>(.*?)</td>", drawn)]
    assert cells[::2] == ["a|b", "<script>alert(1)</script>", "two lines", "[x](http://y)"]
    assert set(cells[1::2]) == {"54.2 [51.1, 57.3]"}


def test_of_paths_their_last_names_are_told_and_all_else_stays(tmp_path: Path) -> None:
    folder = tmp_path / "Jane Doe" / "ward 7"
    folder.mkdir(parents=True)
    (folder / "x-ray 1.png").write_bytes(b"")
    for words, told in {
        f"{folder}/x-ray 1.png: not a readable image (cannot identify '{folder}/x-ray 1.png'); mend it": (
            "x-ray 1.png: not a readable image (cannot identify 'x-ray 1.png'); mend it"
        ),
        f"{folder}/gone.png: not there": "gone.png: not there",
        f"{folder}/gone/deeper/x.png, and {folder}": "x.png, and ward 7",
        f"model.name = {folder}/own.py:network: no file {folder}/own.py; write FILE.py:NAME": (
            "model.name = own.py:network: no file own.py; write FILE.py:NAME"
        ),
        "~/nowhere/at/all: Permission denied": "all: Permission denied",
        "/nowhere/at/all": "all",
        "data-path = '/nowhere/it' is no folder": "data-path = 'it' is no folder",
    }.items():
        assert without_folders(words) == told
    for words in (
        "an image folder has train/<class>/* and test/<class>/*",
        "see https://example.org/a/b; 8/255 and / or //",
        "no path at all",
        "",
    ):
        assert without_folders(words) == words
