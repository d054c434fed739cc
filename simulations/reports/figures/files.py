"""Writes figures as PNG and SVG: the same bytes for the same figure on the same machine."""

import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import vl_convert
from PIL import Image

from common.errors import explain_os_errors
from common.files import replace_file
from common.words import visible
from simulations.reports.figures.style import Figure, file_spec

_SCALE = 1.5  # pixels of a PNG to one of the figure
_NO_LETTER = "\U0010fffd"  # for private use: no font has it
_CELL = 40

log = logging.getLogger("fedshield")


def save_all(figures: Mapping[str, Figure], folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Save figures by name into a folder, and remove those of earlier times, which would show something else.

    Args:
        figures: name -> figure.
        folder: made where it is missing.
        patterns: of all names that the caller ever uses.

    Returns:
        The files, each figure's PNG before its SVG.

    Raises:
        FedShieldError: the folder cannot be written.
    """
    with explain_os_errors(folder):
        folder.mkdir(exist_ok=True)
    paths = [path for name, figure in figures.items() for path in save(figure, folder / name)]
    for pattern in patterns:
        for path in [*folder.glob(f"{pattern}.png"), *folder.glob(f"{pattern}.svg")]:
            if path not in paths:
                with explain_os_errors(path):
                    path.unlink()
    return paths


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG; return the two paths."""
    # Letters that XML cannot hold would end the whole process.
    svg = vl_convert.vegalite_to_svg(_spelled_out(file_spec(figure)), allowed_base_urls=[])
    png, text = paths_of(stem)
    replace_file(png, _smaller(vl_convert.svg_to_png(svg, scale=_SCALE)))
    replace_file(text, svg.encode())
    if letters := _without_font(sorted({letter for letter in svg if letter > "\xff"})):
        log.info(
            "%s: no font has %s; drawn as boxes here, as letters in the SVG (fonts: fonts-noto-cjk, fonts-symbola)",
            *(png, "".join(letters[:20])),
        )
    return [png, text]


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
