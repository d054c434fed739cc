"""What an evaluation has measured: by attack, by class, over epsilon."""

from simulations.reports.accuracy import NO_ATTACK, AccuracyTable, Kind, Record, bracket, share, tell_chance
from simulations.reports.beside import corruption_sheet, tell_backdoor, tell_calibration
from simulations.reports.figures.charts import by_class
from simulations.reports.figures.evaluation_figures import curve_figure
from simulations.reports.figures.style import Figure, Panel
from simulations.reports.headline import APART, tell_sources, tell_threats
from simulations.reports.html.page import Block, Table, charts, of_sheet


def attacks(final: Record) -> list[Block]:
    """Return accuracy under each attack, with intervals; AutoAttack's parts come before it."""
    if not final:
        return []
    accuracy = AccuracyTable.of(final)
    names = ["natural (no attack)" if row.kind is Kind.NATURAL else row.name for row in accuracy.rows]
    rows = [
        [name, f"{share(row.value)} %", bracket(row.interval)] for name, row in zip(names, accuracy.rows, strict=True)
    ]
    notes = [f"n = {accuracy.n:,} test images", *tell_chance(final), *([] if accuracy.attacked else [NO_ATTACK])]
    notes += [*tell_calibration(final), *tell_backdoor(final)]
    if count := final.get("broken-elsewhere"):
        notes.append(f"the worst case counts {count:,} more images as broken: the evaluations below broke them")
    notes += [*tell_threats(final), *tell_sources(final)]
    blocks: list[Block] = [Table(["accuracy", "%", "95 % interval"], rows, notes=notes)]
    if others := [_other(record) for record in final.get("others", ())]:
        header = ["another evaluation of this model, worst case", "n", "%", "95 % interval", "with all attacks, %"]
        notes = ["with all attacks: less the images that any evaluation of this model has broken"]
        blocks.append(Table(header, others, notes=[*notes, *([APART] if final["apart"] else [])]))
    if distortions := final.get("distortions"):
        header = ["attack without a budget", "fooled, %", "median L2", "median Linf × 255"]
        notes = [f"n = {final['distortions-n']:,} test images"]
        blocks.append(Table(header, [_distortion(label, found) for label, found in distortions.items()], notes=notes))
    return blocks


def _other(record: Record) -> list[str]:
    worst, known = record["worst"], percent(record["known"])
    return [", ".join(record["robust"]), f"{record['n']:,}", percent(worst), bracket(worst["interval"]), known]


def _distortion(label: str, found: Record) -> list[str]:
    l2, linf = found.get("median-l2"), found.get("median-linf")
    return [
        label,
        percent(found["success"]),
        "–" if l2 is None else f"{l2:.3f}",
        "–" if linf is None else f"{255 * linf:.2f}",
    ]


def classes(final: Record) -> list[Block]:
    """Return the accuracy of each class alone."""
    accuracy = AccuracyTable.of(final)
    if not accuracy.classes:
        return []
    shown = accuracy.whole().values()
    rows = [
        {"class": name, "measure": row.name, "accuracy": 100 * value}
        for row in shown
        for name, value in zip(accuracy.classes, row.per_class, strict=True)
        if value is not None
    ]
    cells = [
        [name, f"{n:,}", *("–" if value is None else f"{share(value)} %" for value in own)]
        for name, n, own in accuracy.by_class()
    ]
    over_all = [f"over all classes, {line}" for line in tell_chance(final)]
    panel = Panel("", by_class(rows, accuracy.classes), max(120, 22 * len(accuracy.classes)))
    return [
        *charts(Figure([panel], "", "; ".join(["Accuracy of each class alone", *over_all]), 0, 1)),
        Table(["class", "n", *(f"{row.name}, %" for row in shown)], cells),
    ]


def corrupted(final: Record) -> list[Block]:
    """Return accuracy under common corruptions, where that was asked for."""
    return of_sheet(corruption_sheet(final))


def curve(final: Record, unit: str) -> list[Block]:
    """Return robust accuracy over epsilon, where that was asked for; ``unit``: round or epoch."""
    return charts(curve_figure(final, final["curve-n"], "", unit)) if final.get("curve") else []


def percent(rate: Record | None) -> str:
    """``54.2 %``, or a dash."""
    return f"{share(rate['value'])} %" if rate else "–"


def measure(label: str) -> str:
    """Return what an attack's label is called."""
    return "worst case" if label == "worst" else label
