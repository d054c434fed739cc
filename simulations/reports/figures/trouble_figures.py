"""The timeline of a run's troubles."""

from collections.abc import Sequence

from common.paths import some_home
from simulations.reports.figures.run_figures import height_of
from simulations.reports.figures.style import COLORS, Figure, Panel, Record, chart, legend

with some_home():
    import altair as alt

_LOOKS = {"mild": COLORS[4], "severe": COLORS[1]}


def timeline(judged: Sequence[Record], unit: str) -> Figure:
    """Draw a line for each trouble, and a field for each round that had it, in the color of its severity.

    Args:
        judged: lines of ``metrics.jsonl`` with diagnoses, at least one of them with a trouble.
        unit: ``round`` or ``epoch``.
    """
    rows = [
        {"from": line["round"] - 0.5, "to": line["round"] + 0.5, unit: line["round"], "trouble": found["name"], **found}
        for line in judged
        for found in line["diagnoses"]
    ]
    numbers = [line["round"] for line in judged]
    scale = alt.Scale(domain=[min(numbers) - 0.5, max(numbers) + 0.5], nice=False)
    names = list(dict.fromkeys(row["trouble"] for row in rows))
    colors = alt.Scale(domain=list(_LOOKS), range=[*_LOOKS.values()])
    drawn: alt.Chart = chart(rows).mark_bar(height=16).encode(
        x=alt.X("from:Q", title=unit, scale=scale, axis=alt.Axis(tickMinStep=1, format="d")),
        x2="to:Q",
        y=alt.Y("trouble:N", title=None, sort=names, axis=alt.Axis(grid=True, labelLimit=200)),
        color=alt.Color("severity:N", scale=colors, legend=legend()),
        tooltip=[alt.Tooltip(f"{unit}:Q"), "trouble:N", "severity:N", "evidence:N"],
    )  # fmt: skip
    caption = f"Troubles that were diagnosed, {unit} by {unit}; one ends after two {unit}s without a sign of it."
    return Figure([Panel("", drawn, height_of(len(names)))], "", caption, 180, 1)
