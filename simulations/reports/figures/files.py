"""Writes figures as PNG, SVG and PDF: the same bytes for the same figure on the same machine.

A PDF names its fonts at random, so it is written only where its figure has changed.
"""

import io
import logging
import mmap
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import vl_convert
from PIL import Image

from common.errors import FedShieldError, explain_os_errors
from common.files import replace_file
from common.words import visible
from simulations.reports.figures.style import Figure, file_spec

_SCALE = 1.5  # pixels of a PNG to one of the figure
_NO_LETTER = "\U0010fffd"  # for private use: no font has it
_CELL = 40
_ROOM = 66 * 2**30  # bytes of addresses, 64.5 GiB and some more: Vega's JavaScript engine ends the process without them

# What Vega tells a screen reader of an axis: in other digits after other figures were drawn.
_RANGE = re.compile(r" with values from [^\"]* to [^\"]*(?=\")")

log = logging.getLogger("fedshield")


def save_all(figures: Mapping[str, Figure], folder: Path, patterns: Iterable[str], pdf: bool = False) -> list[Path]:
    """Save figures by name into a folder, and remove those of earlier times, which would show something else.

    Args:
        figures: name -> figure.
        folder: made where it is missing.
        patterns: of all names that the caller ever uses.
        pdf: write PDF files too.

    Returns:
        The files, each figure's PNG before its SVG and its PDF.

    Raises:
        FedShieldError: the folder cannot be written.
    """
    with explain_os_errors(folder):
        folder.mkdir(exist_ok=True)
    paths = [path for name, figure in figures.items() for path in save(figure, folder / name, pdf)]
    for pattern in patterns:
        for path in [file for suffix in ("png", "svg", "pdf") for file in folder.glob(f"{pattern}.{suffix}")]:
            if path not in paths:
                with explain_os_errors(path):
                    path.unlink()
    return paths


def save(figure: Figure, stem: Path, pdf: bool = False) -> list[Path]:
    """Write a figure as PNG and SVG, and on request as PDF; return the paths.

    Raises:
        FedShieldError: it cannot be written, or not be drawn under the limits of this process.
    """
    png, text = paths_of(stem)
    printed = [stem.with_name(f"{stem.name}.pdf")] if pdf else []
    _check_room(png)
    try:
        # Letters that XML cannot hold would end the whole process.
        svg = vl_convert.vegalite_to_svg(_spelled_out(file_spec(figure)), allowed_base_urls=[])
        svg = _RANGE.sub("", svg)
        drawn = vl_convert.svg_to_png(svg, scale=_SCALE)
        for path in printed:
            if not (path.exists() and text.exists() and text.read_bytes() == svg.encode()):
                replace_file(path, vl_convert.svg_to_pdf(svg))
    except ValueError as error:  # of its threads, what they lacked is on stderr
        raise FedShieldError(
            f"{png}: could not be drawn ({' '.join(str(error).split())}); most often too few files may be open "
            "(ulimit -n 1024), or memory is lacking"
        ) from error
    replace_file(png, _smaller(drawn))
    replace_file(text, svg.encode())
    if letters := _without_font(sorted({letter for letter in svg if letter > "\xff"})):
        log.info(
            "%s: no font has %s; drawn as boxes here, as letters in the SVG (fonts: fonts-noto-cjk, fonts-symbola)",
            *(png, "".join(letters[:20])),
        )
    return [png, text, *printed]


def _check_room(png: Path) -> None:
    """Check that this process may reserve as many addresses as drawing needs, though it uses little of them."""
    if sys.platform != "linux":
        return
    try:
        mmap.mmap(-1, _ROOM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except OSError as error:
        raise FedShieldError(
            f"{png}: cannot be drawn here: drawing reserves {_ROOM >> 30} GiB of addresses (hardly any memory), which "
            "the limit of this shell does not allow; set ulimit -v unlimited"
        ) from error


def _smaller(png: bytes) -> bytes:
    """Return the same picture in a third of the bytes: nothing of a figure is transparent."""
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(file, "PNG", optimize=True)
    return file.getvalue()


def paths_of(stem: Path) -> list[Path]:
    """Return the two files of a figure."""
    return [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]


def _without_font(letters: Sequence[str]) -> list[str]:
    """Return those that no font of this machine has: they come out as a letter does that there cannot be."""
    if not letters:
        return []
    shown = [_NO_LETTER, *letters]
    text = "".join(
        f'<text x="{_CELL * place + 8}" y="30" font-family="Liberation Sans" font-size="20">{letter}</text>'
        for place, letter in enumerate(shown)
    )
    size = f'width="{_CELL * len(shown)}" height="{_CELL}"'
    png = vl_convert.svg_to_png(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{text}</svg>', scale=1)
    missing, *drawn = np.split(np.asarray(Image.open(io.BytesIO(png))), len(shown), axis=1)
    return [letter for letter, cell in zip(letters, drawn, strict=True) if np.array_equal(cell, missing)]


def _spelled_out(part: Any) -> Any:
    """Return a specification in which all letters are visible."""
    if isinstance(part, str):
        return visible(part, "\n")
    if isinstance(part, Mapping):
        return {key: _spelled_out(value) for key, value in part.items()}
    return [_spelled_out(each) for each in part] if isinstance(part, list) else part
