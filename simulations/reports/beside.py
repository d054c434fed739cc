"""What is told beside robust accuracy: calibration, accuracy under common corruptions, privacy. Imports no torch."""

from collections.abc import Sequence
from statistics import fmean

from common.statistics import sampling_error
from simulations.reports.accuracy import Record, bracket, share
from simulations.reports.sheets import Sheet

BESIDE = ("calibration", "corruptions", "backdoor")  # as evaluations have them
_SEVERITIES = range(1, 6)


def tell_calibration(figures: Record) -> list[str]:
    """Say how well the model knows when it is right, on images without an attack; nothing where it is not known."""
    if not (found := figures.get("calibration")):
        return []
    n = figures.get("calibration-n", figures["n"])
    error, confidence = share(found["ece"]), share(found["confidence"])
    return [
        f"calibration error (ECE, 15 bins): {error} %, with a mean confidence of {confidence} %, on n = {n:,} natural "
        "images"
    ]


def tell_backdoor(figures: Record) -> list[str]:
    """Say how often a backdoor's trigger turns an image into the class that it stands for; nothing without one."""
    if not (found := figures.get("backdoor")):
        return []
    hit, without, target = found["with"], share(found["without"]["value"]), found["target"]
    return [
        f"backdoor: with the trigger, {share(hit['value'])} % {bracket(hit['interval'])} of n = {found['n']:,} images "
        f"of other classes are taken for {target}; without it, {without} %"
    ]


def tell_epsilon(metrics: Sequence[Record]) -> tuple[str, str] | None:
    """Return epsilon after the last round, and what it is worth; None for a run without differential privacy.

    Args:
        metrics: lines of ``metrics.jsonl``.
    """
    if not metrics or not (spent := metrics[-1].get("privacy")):
        return None
    rounds = metrics[-1]["round"]
    what = (
        f"client-level differential privacy at delta = {spent['delta']:g}, after {rounds} "
        f"round{'' if rounds == 1 else 's'}; not of the shared pool"
    )
    if spent["noise"] == "seeded":
        what += "; the noise follows from the seed: who knows the seed can take it out"
    return f"epsilon = {spent['epsilon']:.3g}", what


def corruption_sheet(figures: Record) -> Sheet | None:
    """Return accuracy in per cent by kind and severity of corruption; None where it was not measured."""
    if not (found := figures.get("corruptions")):
        return None
    kinds: Record = found["kinds"]
    rows = [_row(kind, [cell["value"] for cell in own["severities"]], own["mean"]) for kind, own in kinds.items()]
    over_kinds = [fmean(own["severities"][place - 1]["value"] for own in kinds.values()) for place in _SEVERITIES]
    if len(kinds) > 1:
        rows.append(_row("mean corruption accuracy", over_kinds, found["mean"]))
    n = figures.get("corruptions-n", figures["n"])
    notes = [
        "95 % intervals of the means: the versions of a test image count as one observation",
        f"a figure of one severity has a 95 % interval of ± {sampling_error(n):.1f} points or less",
    ]
    if found["ece"] is not None:
        notes.append(f"calibration error (ECE), mean over kinds and severities: {share(found['ece'])} %")
    header = ["corruption, severity", *map(str, _SEVERITIES), "mean %", "95 % interval"]
    return Sheet(f"Accuracy under common corruptions, in per cent, n = {n:,} test images", header, rows, notes, 1)


def _row(name: str, values: Sequence[float], mean: Record) -> list[str]:
    return [name, *map(share, values), share(mean["value"]), bracket(mean["interval"])]


def tell_corruptions(figures: Record) -> str:
    """Say what the mean corruption accuracy is the mean of."""
    kinds = figures["corruptions"]["kinds"]
    return f"mean over five severities of {', '.join(kinds)}, on n = {figures.get('corruptions-n', figures['n']):,}"
