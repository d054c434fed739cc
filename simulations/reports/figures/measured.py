"""Rows of a study by point: which of them a figure shows, and what a caption says about the others."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from common.statistics import sampling_error
from common.words import some
from simulations.reports.figures.points import Values, is_number, name_point, pair_of
from simulations.reports.figures.run_figures import images
from simulations.study_directory import Row, attack_columns, finished, number, varied_columns

Rows = list[Mapping[str, Any]]

_NAMED = 4  # points without figures that a caption names


@dataclass(frozen=True)
class Measured:
    """Rows of ``results.csv`` or ``rounds.csv`` by point.

    Attributes:
        keys: the columns that the study varies.
        rows: values of the keys -> rows of the finished runs, in the order of the file; maybe none.
        measures: what a panel shows -> column: natural accuracy, and that under the last attack of the study.
        lack: what a caption says of points without figures.
    """

    keys: tuple[str, ...]
    rows: dict[Values, list[Row]]
    measures: dict[str, str]
    lack: str = ""

    def without(self, key: str) -> "Measured":
        """Return the same rows, with one key left out of what tells points apart."""
        keys = [k for k in self.keys if k != key]
        found = measured([row for rows in self.rows.values() for row in rows], keys)
        return replace(found, measures=self.measures, lack=self.lack)

    def numeric(self) -> list[str]:
        """Return the keys whose values are numbers, two or more different ones; the one with most of them first."""
        found = {key: {values[place] for values in self.rows} for place, key in enumerate(self.keys)}
        keys = [key for key, values in found.items() if len(values) > 1 and all(map(is_number, values))]
        return sorted(keys, key=lambda key: -len(found[key]))

    def note(self, drawn: str) -> str:
        """Return a caption: what is ``drawn`` (``{}``: the number of seeds), and how many test images there are."""
        counts = {len({row["seed"] for row in rows}) for rows in self.rows.values() if rows}
        tested = sorted({int(float(row["n"])) for rows in self.rows.values() for row in rows if row["n"]})
        seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
        shown = "One seed" if counts == {1} else drawn.format(seeds)
        shown += self.lack
        if not tested:
            return shown
        # Half of them right is where the share of a sample is least certain.
        widest = sampling_error(tested[0])
        return f"{shown}; {images(tested)}, 95 % interval: ± {widest:.1f} points at most"


def measured(rows: Sequence[Row], keys: Sequence[str] | None = None, headline: str = "") -> Measured:
    """Return rows by point, and what to show of them.

    The attack that is shown does not depend on how strong it is, nor, where the study names it, on which runs are
    finished: otherwise the same figure would show another one as soon as one more run is finished.

    Args:
        rows: of ``results.csv`` or ``rounds.csv``.
        keys: what tells points apart, if not all that varies.
        headline: the attack that the study names; "" for the last one with figures.
    """
    if not rows:
        return Measured((), {}, {})
    chosen = varied_columns(rows[0]) if keys is None else keys
    grouped: dict[Values, list[Row]] = {}
    for row in rows:
        own = grouped.setdefault(tuple(row[key] for key in chosen), [])
        own += finished([row])
    measures = {"natural": "natural"} if any(row.get("natural") for row in rows) else {}
    if attack := _attack(rows, headline):
        measures[f"robust ({attack})"] = attack
    return Measured(tuple(chosen), grouped, measures, _lack(rows, chosen))


def measured_rounds(rounds: Sequence[Row], planned: Sequence[Row], headline: str = "") -> Measured:
    """Return the rounds of the finished runs by point."""
    done = {row["run"] for row in finished(planned)}
    found = measured([row for row in rounds if row["run"] in done], headline=headline)
    return replace(found, lack=_lack(planned, varied_columns(planned[0])))


def _attack(rows: Sequence[Row], headline: str) -> str:
    """Return the study's attack, or else the last one of which there are figures; "" where there is none.

    The evaluations after rounds need not have the study's.
    """
    attacks = attack_columns(rows[0]) if "natural" in rows[0] else []  # else nothing was trained
    if headline in attacks:
        return headline
    return next((attack for attack in reversed(attacks) if any(row[attack] for row in rows)), "")


def _lack(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """Say which points have no figures at all; the tables give the reasons."""
    there = {tuple(row[key] for key in keys) for row in finished(rows)}
    lacking = list(dict.fromkeys(point for row in rows if (point := tuple(row[key] for key in keys)) not in there))
    names = some([name_point(keys, values) for values in lacking], _NAMED, "; ")
    return f"; no figures of: {names}" if lacking else ""


def rates(measured: Measured, column: str, x: str | None = None, factor: float = 1, empty: bool = False) -> Rows:
    """Return the accuracies of a column, in per cent, with the point's name, the seed and what draws it.

    Args:
        measured: rows by point.
        column: an accuracy; cells without one are left out.
        x: another column, whose numbers are added as ``x``.
        factor: by which these are multiplied.
        empty: for a row of each point: its first has the ``mean`` as text, and one without accuracy says so.
    """
    found: Rows = []
    for values, rows in measured.rows.items():
        first, second = pair_of(measured.keys, values, list(measured.rows))
        point = {"name": name_point(measured.keys, values) or "all", "first": first, "second": second}
        known: list[dict[str, Any]] = [
            {**point, "seed": row["seed"], "accuracy": 100 * rate, **({"x": factor * float(row[x])} if x else {})}
            for row in rows
            if (rate := number(row, column)) is not None
        ]
        if known and empty:
            known[0]["mean"] = f"{mean(rows, column):.1f}"
        found += known or ([{**point, "seed": None, "accuracy": None}] if empty else [])
    return found


def whole(rows: Rows) -> Rows:
    """Leave out values of x with fewer seeds than others: the change of seeds would look like a step."""
    counts = Counter((row["name"], row["x"]) for row in rows)
    most = {name: max(count for (other, _), count in counts.items() if other == name) for name, _ in counts}
    return [row for row in rows if counts[row["name"], row["x"]] == most[row["name"]]]


def ends(rows: Rows) -> dict[str, float]:
    """Return the mean of each point at its last x."""
    last: dict[str, float] = {}
    for row in rows:
        last[row["name"]] = max(row["x"], last.get(row["name"], row["x"]))
    return {
        name: fmean(row["accuracy"] for row in rows if (row["name"], row["x"]) == (name, x)) for name, x in last.items()
    }


def mean(rows: Sequence[Row], column: str) -> float:
    """Return the mean of a column of rates, in per cent, with the tables' rounding errors; 0 where it is empty."""
    known = [100 * rate for row in rows if (rate := number(row, column)) is not None]
    return fmean(known) if known else 0.0
