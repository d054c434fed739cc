"""``fedshield transfer RUN --clients``: examples made on one client's own model, tried on another's."""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

import numpy as np
from torch import nn

from common.attacks.threat import radius
from common.config.flat import Flat
from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.errors import FedShieldError
from common.evaluation.evaluate import BATCH, evaluate
from common.evaluation.transfer import can_transfer
from common.factory import evaluation_threat, make_model
from common.files import replace_file
from common.user_code import user_code_digest
from server.evaluation import prepare_evaluation
from server.measures import kept_for, passes_to_average, seed_of, subset_of
from server.personal import require_personal
from server.run_directory.checkpoint import fit_state
from server.sources import Source
from simulations.reports.accuracy import share
from simulations.reports.sheets import Sheet

log = logging.getLogger("fedshield")


@dataclass(frozen=True)
class Cell:
    """One client's model against examples of another's; the same where both are one: the attack sees the model.

    Attributes:
        made_on: client on whose model the examples were made.
        tried_on: client whose model was attacked.
        n: test images of its classes.
        natural: accuracy without an attack, in [0, 1].
        robust: accuracy on the examples, in [0, 1].
    """

    made_on: int
    tried_on: int
    n: int
    natural: float
    robust: float


def between_clients(
    run_dir: Path, attack: str, changes: Flat, asked: Sequence[int] = (), trust_code: bool = False
) -> tuple[Sheet, Path]:
    """Try the examples of each client's own model on those of all (Kim et al. 2022, arXiv 2209.08412).

    Args:
        run_dir: absolute.
        attack: as in ``evaluate.attacks``, with a budget.
        changes: keys of the stored configuration to change, such as ``evaluate.final-examples``.
        asked: numbers of clients; all if empty.
        trust_code: run code of the run's that has not been run on this machine before.

    Returns:
        The table, and the CSV file in the run directory: a line for each pair.

    Raises:
        FedShieldError: the clients have no models of their own, there are fewer than two, or the attack has no budget;
            or as in ``evaluate_run``.
    """
    personal = require_personal(run_dir)
    if not can_transfer([attack]):
        raise FedShieldError(f"--attack {attack}: has no budget, so its examples cannot be tried on another model")
    prepared = prepare_evaluation(run_dir, {**changes, "evaluate.final-attacks": attack}, trust_code)
    config, test, counts, tried = prepared.config, prepared.test, prepared.counts, prepared.model
    clients = _checked(asked, config.federation.clients)
    subset = subset_of(test, config.evaluate.final_examples)
    made = make_model(config, len(test.classes)).to(prepared.device)
    cells = []
    for place in clients:
        rows = np.flatnonzero(counts[place][subset.labels] > 0) if counts is not None else np.empty(0, np.int64)
        if not len(rows):
            raise FedShieldError(f"client {place}: none of the test images is of its classes; raise --examples")
        log.info("attacking the model of client %d", place)
        fit_state(tried, personal.state(place), run_dir)
        for source in clients:
            fit_state(made, personal.state(source), run_dir)
            cells.append(_cell(run_dir, config, (source, made), (place, tried), subset.take(rows)))
    path = run_dir / f"clients-{quote(attack, safe='')}.csv"
    replace_file(path, _csv(cells).encode())
    return _sheet(cells, clients, attack, config), path


def _checked(asked: Sequence[int], clients: int) -> list[int]:
    chosen = sorted({*asked}) or list(range(clients))
    if chosen[-1] >= clients:
        raise FedShieldError(f"--clients {chosen[-1]}: the clients of this run are 0 to {clients - 1}")
    if len(chosen) < 2:
        raise FedShieldError(f"--clients {chosen[0]}: one client given; name two or more, or all")
    return chosen


def _cell(
    run_dir: Path, config: RunConfig, source: tuple[int, nn.Module], target: tuple[int, nn.Module], images: Dataset
) -> Cell:
    """Measure one client's model on examples of one client's."""
    threat, (number, seen), (place, model) = evaluation_threat(config), source, target
    eot = passes_to_average(seen, images.images, config)
    network = config.model.model_dump() | {"name": user_code_digest(config.model.name)}
    other = None if number == place else Source(f"client {number}", seen, network, {})
    kept = kept_for(run_dir / "evaluations", model, images, config, threat, eot, source=other)
    attacks, made_on = config.final_attacks(), None if other is None else seen
    arguments = attacks, threat, seed_of(config), BATCH, kept, eot, made_on
    found = evaluate(model, images.images, images.labels, *arguments)
    return Cell(number, place, found.n, found.natural.value, found.robust[attacks[0]].value)


def _csv(cells: Sequence[Cell]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("made_on", "tried_on", "n", "natural", "robust"))
    writer.writerows((cell.made_on, cell.tried_on, cell.n, cell.natural, cell.robust) for cell in cells)
    return text.getvalue()


def _sheet(cells: Sequence[Cell], clients: Sequence[int], attack: str, config: RunConfig) -> Sheet:
    found = {(cell.made_on, cell.tried_on): cell for cell in cells}
    own = [found[client, client] for client in clients]
    rows = [["no attack", *(share(cell.natural) for cell in own)]]
    rows += [[str(made), *(share(found[made, tried].robust) for tried in clients)] for made in clients]
    moved = fmean(cell.robust for cell in cells if cell.made_on != cell.tried_on)
    sizes = [cell.n for cell in own]
    n = f"n = {min(sizes):,}" if min(sizes) == max(sizes) else f"n = {min(sizes):,} to {max(sizes):,}"
    within = radius(config.attack.epsilon_255, config.attack.norm)
    notes = [
        "row: client on whose model the examples were made; column: client whose model they were tried on, with the "
        "test images of its classes; where both are the same, the attack sees the model (white box)",
        f"means: {share(fmean(cell.natural for cell in own))} % without an attack, "
        f"{share(fmean(cell.robust for cell in own))} % in the white box, {share(moved)} % on others' examples",
    ]
    title = f"Accuracy in % of the clients' own models under {attack}, epsilon {within}, {n} test images"
    return Sheet(title, ["made on", *map(str, clients)], rows, notes, 1)
