"""``fedshield transfer``: examples made on the model of each run, tried on the models of all."""

import logging
from collections.abc import Sequence
from pathlib import Path

from common.attacks.threat import radius
from common.config.flat import Flat
from common.data.cuts import out_of
from common.errors import FedShieldError
from common.evaluation.transfer import transferred_label
from server.evaluation import RunEvaluation, evaluate_run
from server.run_directory.reader import names_of
from simulations.reports.accuracy import AccuracyTable, bracket, share, tell_chance
from simulations.reports.sheets import Sheet

log = logging.getLogger("fedshield")

_NOTES = (
    "row: on which model the examples were made; column: the model that they were tried on; where both are the same, "
    "the attack sees the model (white box)",
    "each column is kept with its run, and counts in the worst case of that run",
    "in brackets: 95 % intervals for the sample of test images",
)


def transfer(paths: Sequence[Path], attack: str, changes: Flat, trust_code: bool = False) -> Sheet:
    """Return robust accuracy: a row for each model that examples are made on, a column for each that is attacked.

    Args:
        paths: two run directories or more, absolute.
        attack: as in ``evaluate.attacks``, with a budget.
        changes: keys of all the stored configurations to change, such as ``evaluate.final-examples``.
        trust_code: run code of the runs that has not been run on this machine before.

    Raises:
        FedShieldError: there are fewer than two, or they do not fit together; see ``evaluate_run``.
    """
    if len(paths) < 2:
        raise FedShieldError(f"transfer: {len(paths)} run given; name two or more")
    names, found = names_of(paths), []
    for place, path in enumerate(paths):
        log.info("attacking %s", names[place])
        others = [*paths[:place], *paths[place + 1 :]]
        asked = {**changes, "evaluate.final-attacks": attack}
        found.append(evaluate_run(path, asked, trust_code=trust_code, made_on=others))
    return _matrix(found, names, attack)


def _matrix(found: Sequence[RunEvaluation], names: Sequence[str], attack: str) -> Sheet:
    labels = [[attack if made == tried else transferred_label(attack, made) for tried in names] for made in names]
    known = [AccuracyTable.of(each.record).whole() for each in found]
    lines = [
        ("no attack", ["natural"] * len(names)),
        *zip(names, labels, strict=True),
        ("all of these", ["worst"] * len(names)),
    ]
    rows = []
    for kind, own in lines:
        cells = [column.get(label) for column, label in zip(known, own, strict=True)]
        rows.append([kind, *(f"{share(cell.value)} {bracket(cell.interval)}" if cell else "–" for cell in cells)])
    first = found[0]
    count, threat = out_of(first.evaluation.n, first.tests), first.config.attack
    within = f"epsilon {radius(threat.epsilon_255, threat.norm)}"
    title = f"Accuracy in % under {attack}, {within}, n = {count} test images"
    return Sheet(title, ["made on", *names], rows, [*_NOTES, *tell_chance(first.record)], 1)
