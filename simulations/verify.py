"""``fedshield verify``: measures the models of somebody's results again, and compares the figures with theirs."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.attacks.threat import radius
from common.config.flat import Flat
from common.errors import FedShieldError
from server.evaluation import evaluate_finally, prepare_evaluation
from server.measures import subset_of
from server.run_directory.reader import read_config, read_summary
from simulations.reports.accuracy import AccuracyTable, share
from simulations.reports.sheets import Sheet
from simulations.study_directory import Row, number, rate_columns, read_results

log = logging.getLogger("fedshield")


@dataclass(frozen=True)
class Claim:
    """What is said of one run.

    Attributes:
        name: of the run.
        path: of its directory.
        source: the file that says it.
        n: test images.
        rates: accuracies in [0, 1]: ``natural``, each attack, and ``worst``.
    """

    name: str
    path: Path
    source: Path
    n: int
    rates: Mapping[str, float]


@dataclass(frozen=True)
class Verified:
    """What the models gave when they were measured again.

    Attributes:
        sheet: claimed and found accuracy of each run.
        wrong: one line for each figure that is not what was claimed.
    """

    sheet: Sheet
    wrong: tuple[str, ...]


def verify(path: Path, changes: Flat, tolerance: float, trust_code: bool = False) -> Verified:
    """Measure the final models of a run, or of all finished runs of a study, again; nothing is written.

    A model is measured under its run's own attacks, threat and number of test images. Its weights must be those whose
    SHA-256 the run has kept.

    Args:
        path: absolute, of a run or a study.
        changes: keys of the stored configurations to change, such as ``data.root``.
        tolerance: by how many percentage points a figure may differ: another processor rounds otherwise.
        trust_code: run code of the runs that has not been run on this machine before.

    Raises:
        FedShieldError: nothing is claimed, or a run is damaged or not there.
    """
    claims = _claims(path)
    rows, wrong, within = [], list[str](), set[str]()
    for place, claim in enumerate(claims, 1):
        log.info("[%d/%d] %s", place, len(claims), claim.name)
        found, threat = _measure(claim, changes, trust_code)
        within.add(threat)
        for label, claimed in claim.rates.items():
            off = 100 * (found[label] - claimed)
            rows.append([claim.name, label, share(claimed), share(found[label]), f"{off:+.1f}"])
            if abs(off) > tolerance + 1e-9:
                wrong.append(
                    f"{claim.source}: {claim.name}: {label} {share(claimed)} % is claimed, {share(found[label])} % is "
                    "found; are the test images the same (data.root)?"
                )
    notes = [
        f"{len(claims)} models measured again, within {', '.join(sorted(within))}",
        f"{len(rows) - len(wrong)} of {len(rows)} figures are within {tolerance:g} points of what is claimed",
    ]
    if later := sum("worst" not in claim.rates for claim in claims):
        notes.append(f"{later} worst cases are not verified: attacks that came later (fedshield evaluate) are in them")
    header = ["run", "accuracy", "claimed %", "found %", "difference"]
    return Verified(Sheet("Claimed and found", header, rows, notes, 2), tuple(wrong))


def _measure(claim: Claim, changes: Flat, trust_code: bool) -> tuple[dict[str, float], str]:
    """Return what a model gives now, and within what."""
    run = prepare_evaluation(claim.path, changes, trust_code)
    if (measured := len(subset_of(run.test, run.config.evaluate.final_examples).labels)) != claim.n:
        raise FedShieldError(
            f"{claim.source}: {claim.name}: {claim.n} test images are claimed, {measured} are there; give the same "
            "data, with --set data.root=DIR"
        )
    _, figures = evaluate_finally(run.model, run.test, run.config, run.counts, None)
    found = {row.label: row.value for row in AccuracyTable.of(figures).rows}
    if missing := [label for label in claim.rates if label not in found]:
        raise FedShieldError(
            f"{claim.source}: {claim.name}: {missing[0]} is claimed, but evaluate.final-attacks of the run does not "
            "have it"
        )
    return found, radius(run.config.attack.epsilon_255, run.config.attack.norm)


def _claims(path: Path) -> list[Claim]:
    if (path / "results.csv").exists():
        return [_of_row(path, row) for row in read_results(path)]
    read_config(path)
    if not (final := read_summary(path).get("final")):
        raise FedShieldError(f"{path}: has no final evaluation that could be verified; finish the run first")
    rates = {row.label: row.value for row in AccuracyTable.of(final).rows}
    return [Claim(path.name, path, path / "summary.json", int(final["n"]), rates)]


def _of_row(study_dir: Path, row: Row) -> Claim:
    run_dir, source = study_dir / "runs" / row["run"], study_dir / "results.csv"
    if not (run_dir / "config.json").exists():
        raise FedShieldError(
            f"{run_dir}: not there; a row is verified with its run directory (config.json, checkpoint/, own/)"
        )
    if "natural" not in row:
        raise FedShieldError(f"{source}: no model is trained in this study, so there is nothing to verify")
    rates = {label: value for label in rate_columns(row) if (value := number(row, label)) is not None}
    if row.get("later-attacks"):
        rates.pop("worst", None)
    return Claim(row["run"], run_dir, source, int(row["n"]), rates)
