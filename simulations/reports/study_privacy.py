"""What the models of a study tell about their training images, and its differential privacy; from ``results.csv``."""

from collections.abc import Sequence

from simulations.reports.sheets import Sheet, spread
from simulations.study_directory import AUCS, EPSILON, Row, by_point, finished, numbers, varied_columns

AUC_OF = dict(zip(AUCS, ("images of the pool", "the clients' images"), strict=True))
"""Column -> the images that an attacker asks about."""


def privacy_sheets(rows: Sequence[Row]) -> list[Sheet]:
    """Return the AUCs and epsilon of each point; none where no run of the study has one.

    Args:
        rows: as in ``read_planned``.
    """
    there = [column for column in (*AUCS, EPSILON) if any(row.get(column) for row in rows)]
    if not there:
        return []
    keys = varied_columns(rows[0])
    cells = [
        [*point, *(spread(numbers(finished(planned), column), 2 if column == EPSILON else 3) for column in there)]
        for point, planned in by_point(rows, keys).items()
    ]
    notes = ["mean ± standard deviation over the seeds (lowest–highest); a dash: not measured, or without such images"]
    if there != [EPSILON]:
        notes.append(
            "AUC of the strongest attack of fedshield privacy: how often an image that the model was trained on gets a "
            "higher score than one that it never saw; 0.5 is guessing"
        )
    if EPSILON in there:
        notes.append("epsilon: client-level differential privacy after the last round; it does not cover the pool")
    header = [f"AUC, {AUC_OF[column]}" if column in AUC_OF else column for column in there]
    return [Sheet("What the models tell about their training images", [*keys, *header], cells, notes, len(keys))]
