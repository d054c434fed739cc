"""Intervals of a study's figures for other seeds and other test images together."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from common.statistics import joint_interval, outcome_variance
from simulations.reports.differences import Pair, pairs, signed_interval
from simulations.reports.sheets import Sheet
from simulations.study_directory import Row, by_point, finished, number, rate_columns, varied_columns

_TITLE = "over seeds and test images together"
_NOTE = (
    "95 % intervals for other training seeds and other test images of the same kind: Student's t over the seeds, and "
    "the error of the sample of images; the half widths add as the square root of the sum of their squares"
)


def joint_sheets(rows: Sequence[Row]) -> list[Sheet]:
    """Return the intervals of each point's figures; none if no point has two seeds.

    The variance of an image's mean outcome over the seeds is at most p (1 - p), p being the mean accuracy.

    Args:
        rows: as in ``read_planned``.
    """
    keys, rates = varied_columns(rows[0]), rate_columns(rows[0])
    points = by_point(rows, keys).items()
    cells = [[*point, *(_mean(finished(planned), rate) for rate in rates)] for point, planned in points]
    notes = [
        _NOTE,
        "the part of the images is at most p (1 - p) / n; p is the mean accuracy, with two hits and two misses added",
    ]
    return _sheets(f"Accuracy in per cent, {_TITLE}", keys, rates, cells, notes)


def joint_differences(rows: Sequence[Row], reference: Mapping[str, str]) -> list[Sheet]:
    """Return the intervals of each point's differences from the reference; none if no point has two pairs.

    On the same images two models are usually right on the same ones, so that the variance of a difference is at most
    that of two samples of images.

    Args:
        rows: of ``results.csv``.
        reference: as in ``differences.pairs``.
    """
    keys, rates = varied_columns(rows[0]), rate_columns(rows[0])
    found = pairs(rows, reference).items()
    cells = [[*point, *(_difference(compared, rate) for rate in rates)] for point, compared in found]
    notes = [
        _NOTE,
        "the part of the images is that of two samples: too wide where both models are right on the same images",
    ]
    against = ", ".join(f"{key} = {value}" for key, value in reference.items())
    return _sheets(f"Difference from {against}, {_TITLE}", keys, rates, cells, notes)


def _sheets(
    title: str, keys: Sequence[str], rates: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str]
) -> list[Sheet]:
    known = any(cell != "–" for row in cells for cell in row[len(keys) :])
    return [Sheet(title, [*keys, *rates], cells, notes, len(keys))] if known else []


def _mean(rows: Sequence[Row], rate: str) -> str:
    values, images = _figures(rows, rate)
    if not values:
        return "–"
    percent, variance = [100 * value for value in values], 100**2 * outcome_variance(fmean(values), images)
    found = joint_interval(percent, variance, images)
    return f"{found[0]:.1f} [{max(0.0, found[1]):.1f}, {min(100.0, found[2]):.1f}]" if found else "–"


def _difference(compared: Sequence[Pair], rate: str) -> str:
    both = [pair for pair in compared if all(number(row, rate) is not None for row in pair)]
    here, images = _figures([row for row, _ in both], rate)
    there, others = _figures([other for _, other in both], rate)
    if not both:
        return "–"
    variance = outcome_variance(fmean(here), images) + outcome_variance(fmean(there), others)
    points = [100 * (own - other) for own, other in zip(here, there, strict=True)]
    found = joint_interval(points, 100**2 * variance, min(images, others))
    return signed_interval(found) if found else "–"


def _figures(rows: Sequence[Row], rate: str) -> tuple[list[float], int]:
    """Return a figure of each run, and the fewest test images of one."""
    known = [(value, int(row["n"])) for row in rows if (value := number(row, rate)) is not None]
    return [value for value, _ in known], min((n for _, n in known), default=0)
