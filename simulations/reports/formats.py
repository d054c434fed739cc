"""Tables of a study in other formats: Markdown, CSV, and LaTeX with booktabs."""

import csv
import io
from collections.abc import Callable, Sequence

from common.words import visible
from simulations.reports.sheets import Sheet

# What has a meaning in LaTeX, and what its fonts lack in text.
_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "√": r"$\surd$",
    "²": "$^2$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "ε": r"$\varepsilon$",
    "μ": r"$\mu$",
}


def as_markdown(sheets: Sequence[Sheet]) -> str:
    """Return tables as Markdown, the first under a heading of the first level."""
    return "\n".join(sheet.markdown(1 if sheet is sheets[0] else 2) for sheet in sheets)


def as_csv(sheets: Sequence[Sheet]) -> str:
    """Return tables as CSV: a table, its title and its notes as lines that begin with ``#``, and an empty line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for place, sheet in enumerate(sheets):
        text.write("\n" if place else "")
        text.write(f"# {visible(sheet.title)}\n")
        writer.writerow(sheet.header)
        writer.writerows(sheet.rows)
        text.writelines(f"# {visible(note)}\n" for note in sheet.notes)
    return text.getvalue()


def as_latex(sheets: Sequence[Sheet]) -> str:
    r"""Return tables as LaTeX, for ``\usepackage{booktabs}``; every sign of LaTeX in them is escaped."""
    return "% \\usepackage{booktabs}\n" + "\n".join(map(_table, sheets))


def _table(sheet: Sheet) -> str:
    columns = "l" * sheet.names + "r" * (len(sheet.header) - sheet.names)
    header, *rows = map(_line, (sheet.header, *sheet.rows))
    notes = [rf"\par\footnotesize {latex(note)}" for note in sheet.notes]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(sheet.title)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        header,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        *notes,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(row: Sequence[str]) -> str:
    line = " & ".join(map(latex, row)) + r" \\"
    # After the line break or rule before it, LaTeX would take these for an option.
    return "{}" + line if line.startswith(("[", "*")) else line


def latex(text: str) -> str:
    r"""Return text that LaTeX shows as it is.

    >>> print(latex("20 % of model_width"))
    20 \% of model\_width
    """
    return "".join(_LATEX.get(letter, letter) for letter in visible(text))


FORMATS: dict[str, Callable[[Sequence[Sheet]], str]] = {"md": as_markdown, "csv": as_csv, "latex": as_latex}
