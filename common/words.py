"""What others have written (names, messages, files), made safe to show; hints on typing errors."""

import difflib
import os
import re
import unicodedata
from collections.abc import Sequence

_LONGEST = 500  # characters of a text from somebody else
# What begins something in Markdown or HTML inside a line; a bracket does so only before another one or a colon.
_SIGNS = re.compile(r"[\\`*_<>|~&$#]|\](?=[(\[:])")

_PATH = re.compile(r"(?<![\w/.:~<>*-])~?/(?=[^\s/])")  # where one begins that is not relative
_PATH_ENDS = re.compile(r"[\s:;,'\"()\]]")


def visible(text: str, keep: str = "") -> str:
    r"""Return text in which every control or invisible character is escaped: ESC becomes ``\x1b``.

    These are control characters, line breaks, marks that change the direction of writing, and invisible characters.

    Args:
        text: any.
        keep: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(letter if _shows(letter) or letter in keep else _spelled(letter) for letter in text)


def as_file_name(text: str) -> str:
    """Return a text as it can be part of a file's name: ``hf:uoft-cs/cifar10`` becomes ``hf-uoft-cs-cifar10``."""
    return re.sub(r"[^\w.-]+", "-", text)


def in_one_line(words: str) -> str:
    """Return a text from somebody else as one line for a log: not too long, and ``visible``."""
    shown = visible(" ".join(words.split()))
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."


def without_folders(words: str) -> str:
    """Return the text with every path of this machine shortened to its last name."""
    kept, done = [], 0
    for match in _PATH.finditer(words):
        if match.start() >= done:
            end = _path_end(words, match.start())
            path = words[match.start() : end]
            kept += [words[done : match.start()], os.path.basename(path.rstrip("/")) or path]
            done = end
    return "".join([*kept, words[done:]])


def _path_end(words: str, start: int) -> int:
    """Return the end of a path that begins at ``start``: it may contain spaces, so the disk is checked."""
    path = os.path.expanduser(words[start:])
    shift = len(words) - len(path)
    ends = [len(path), *(end.start() for end in reversed([*_PATH_ENDS.finditer(path)]))]
    if (end := next((end for end in ends if os.path.lexists(path[:end])), 0)) > 1:
        return end + shift
    # It does not exist: up to the first character that cannot belong to it, after the last folder that exists.
    cuts = [place for place, letter in enumerate(path) if letter == "/" and os.path.isdir(path[:place])]
    rest = _PATH_ENDS.search(path, cuts[-1] if cuts else 0)
    return (rest.start() if rest else len(path)) + shift


def near(word: str, known: Sequence[str]) -> str:
    """Return "; did you mean ...?" where a known word is near, in upper or lower case, and an empty text otherwise."""
    folded = {name.casefold(): name for name in known}
    matches = [folded[name] for name in difflib.get_close_matches(word.casefold(), folded, n=3, cutoff=0.5)]
    if not matches and "." not in word:  # the table may be missing: `rounds` for `federation.rounds`
        matches = [key for key in known if key.split(".")[-1] == word]
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


def some(words: Sequence[str], most: int, between: str = ", ") -> str:
    """Return the first words, and how many more there are: ``a, b and 3 more``.

    Args:
        words: to name.
        most: how many of them are named.
        between: what separates them.
    """
    return between.join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def time_text(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def markdown(text: str) -> str:
    """Return text as Markdown that shows it as it is, inside a line or a table: no HTML, no link, no new column."""
    return _SIGNS.sub(r"\\\g<0>", visible(" ".join(text.split())))


def _shows(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs"  # spaces of any width


def _spelled(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
