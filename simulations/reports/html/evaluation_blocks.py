"""What an evaluation has measured: by attack, by class, over epsilon."""

from collections.abc import Mapping
from typing import Any

from simulations.reports.headline import NO_ATTACK, bracket, share
from simulations.reports.html import charts
from simulations.reports.html.page import Block, Chart, Table

Record = Mapping[str, Any]


def attacks(final: Record) -> list[Block]:
    """Return accuracy under each attack, with intervals; AutoAttack's parts come before it."""
    if not final:
        return []
    rows = [["natural (no attack)", percent(final["natural"]), bracket(final["natural"]["interval"])]]
    for label, rate in final["robust"].items():
        parts = final.get("parts", {}) if label == "autoattack" else {}
        rows += [[f"after {part}", percent(left), bracket(left["interval"])] for part, left in parts.items()]
        rows.append([label, percent(rate), bracket(rate["interval"])])
    notes = [f"n = {final['n']:,} test images"]
    if final["robust"]:
        rows.append(["worst case", percent(final["worst"]), bracket(final["worst"]["interval"])])
    else:
        notes.append(NO_ATTACK)
    blocks: list[Block] = [Table(["accuracy", "%", "95 % interval"], rows, notes=notes)]
    if others := [_other(record) for record in final.get("others", ()) if record["robust"]]:
        notes = ["on fewer images or attacks than the one above; a stronger attack on fewer images may still say more"]
        blocks.append(
            Table(["another evaluation of this model, worst case", "n", "%", "95 % interval"], others, notes=notes)
        )
    if distortions := final.get("distortions"):
        header = ["attack without a budget", "fooled, %", "median L2", "median Linf × 255", "robust within epsilon, %"]
        notes = [f"n = {final['distortions-n']:,} test images"]
        blocks.append(Table(header, [_distortion(label, found) for label, found in distortions.items()], notes=notes))
    return blocks


def _other(record: Record) -> list[str]:
    worst = record["worst"]
    return [", ".join(record["robust"]), f"{record['n']:,}", percent(worst), bracket(worst["interval"])]


def _distortion(label: str, found: Record) -> list[str]:
    l2, linf = found.get("median-l2"), found.get("median-linf")
    return [
        label,
        percent(found["success"]),
        "–" if l2 is None else f"{l2:.3f}",
        "–" if linf is None else f"{255 * linf:.2f}",
        percent(found["robust-within-epsilon"]),
    ]


def classes(final: Record) -> list[Block]:
    """Return the accuracy of each class alone."""
    if "per-class" not in final:
        return []
    names = final["classes"]
    rows = [
        {"class": names[place], "measure": measure(label), "accuracy": 100 * rate["value"]}
        for label, rates in final["per-class"].items()
        for place, rate in enumerate(rates)
        if rate
    ]
    columns = [map(percent, rates) for rates in final["per-class"].values()]
    cells = [[name, f"{n:,}", *own] for name, n, *own in zip(names, final["class-examples"], *columns, strict=True)]
    header = ["class", "n", *(f"{measure(label)}, %" for label in final["per-class"])]
    return [
        Chart(charts.by_class(rows, names), "Accuracy of each class alone."),
        Table(header, cells),
    ]


def curve(final: Record) -> list[Block]:
    """Return robust accuracy over epsilon, where that was asked for."""
    points = final.get("curve", ())
    rows = [
        {"epsilon": point["epsilon-255"], "attack": point["attack"], **scaled(point), "n": final["curve-n"]}
        for point in sorted(points, key=lambda point: float(point["epsilon-255"]))
    ]
    return [Chart(charts.over_epsilon(rows), "Steps of 2.5 epsilon / steps; band: 95 % interval.")] if rows else []


def percent(rate: Record | None) -> str:
    """``54.2 %``, or a dash."""
    return f"{share(rate['value'])} %" if rate else "–"


def scaled(rate: Record) -> dict[str, float]:
    """Return ``accuracy``, ``low`` and ``high`` in per cent."""
    low, high = rate["interval"]
    return {"accuracy": 100 * rate["value"], "low": 100 * low, "high": 100 * high}


def measure(label: str) -> str:
    """Return what an attack's label is called."""
    return "worst case" if label == "worst" else label
