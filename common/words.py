"""What others have written (names, messages, files), as a terminal, a log and Markdown can take it."""

import re
import unicodedata

_LONGEST = 500  # letters of what somebody else has said
# What begins something in Markdown or HTML inside a line; a bracket does so only before another one or a colon.
_SIGNS = re.compile(r"[\\`*_<>|~&$#]|\](?=[(\[:])")


def visible(text: str, keep: str = "") -> str:
    r"""Return text in which everything that a terminal would obey, or not show, is spelled out: ESC becomes ``\x1b``.

    These are control characters, line breaks, marks that turn the direction of writing, and letters without a shape.

    Args:
        text: any.
        keep: letters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(letter if _shows(letter) or letter in keep else _spelled(letter) for letter in text)


def in_one_line(words: str) -> str:
    """Return what somebody else has said as a log takes it: one line, not too long, and ``visible``."""
    shown = visible(" ".join(words.split()))
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."


def markdown(text: str) -> str:
    """Return text as Markdown that shows it as it is, inside a line or a table: no HTML, no link, no new column."""
    return _SIGNS.sub(r"\\\g<0>", visible(" ".join(text.split())))


def _shows(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs"  # spaces of any width


def _spelled(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
