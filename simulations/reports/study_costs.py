"""What each point of a study cost, and what its worst client has of it; from ``results.csv`` alone."""

from collections.abc import Sequence

from simulations.reports.sheets import Sheet, spread
from simulations.study_directory import MEGABYTES, WORST_CLIENT, Row, by_point, finished, numbers, varied_columns


def cost_sheets(rows: Sequence[Row]) -> list[Sheet]:
    """Return minutes and messages of each point, and its worst client; none where no run of the study has clients.

    Args:
        rows: as in ``read_planned``.
    """
    if not any(row.get(column) for row in rows for column in (*WORST_CLIENT, *MEGABYTES)):
        return []
    keys = varied_columns(rows[0])
    cells = []
    for point, planned in by_point(rows, keys).items():
        found = finished(planned)
        clients = [spread([100 * share for share in numbers(found, column)], 1) for column in WORST_CLIENT]
        minutes = spread([seconds / 60 for seconds in numbers(found, "seconds")], 1)
        cells.append([*point, *clients, minutes, *(spread(numbers(found, column), 1) for column in MEGABYTES)])
    header = ["worst client, natural %", "worst client, worst %", "minutes", "MB sent", "MB received"]
    notes = [
        "worst client: the lowest accuracy for a client's own mixture of classes, of the global model; worst %: in the "
        "worst case of all attacks",
        "minutes of training, with the evaluations during it and without the final one; they compare only on a machine "
        "that does nothing else",
        "MB: arrays in all messages of a run, from the server and from the clients",
    ]
    return [Sheet("Worst client, and what it cost", [*keys, *header], cells, notes, len(keys))]
