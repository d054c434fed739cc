"""``fedshield privacy`` for a study: attacks the models of all its finished runs, and gathers the results."""

import logging
from pathlib import Path
from typing import Any

from common.config.flat import Flat
from common.errors import FedShieldError
from server.run_directory.index import selected_checkpoint
from server.run_directory.privacy import read_privacy
from simulations.studies.gather import gather, is_finished
from simulations.studies.study import load_study, points

log = logging.getLogger("fedshield")


def is_study(directory: Path) -> bool:
    """Return whether a directory is that of a study, and not of a run."""
    return (directory / "study.toml").exists()


def measure_study(directory: Path, changes: Flat, examples: int, shadows: int, trust_code: bool = False) -> Path:
    """Attack the model of every finished run of a study, and write the AUCs into its ``results.csv``; return that.

    A run that was measured before, with the same options and its present model, is left as it is: after a stop the
    same command goes on.

    Args:
        directory: of the study, absolute.
        changes: as in ``measure_privacy``, and so are the others.
        examples: images a side.
        shadows: shadow models.
        trust_code: run code of the runs.

    Raises:
        FedShieldError: no run is finished, the study trains nothing, or some runs cannot be measured; each of these has
            had a line before.
    """
    from server.membership import measure_privacy  # imports torch

    study = load_study(directory / "study.toml")
    planned = points(study)
    runs = [run for point in planned if is_finished(study, run := directory / "runs" / point.name)]
    if not runs or study.command == "partitions":
        what = "trains no models" if study.command == "partitions" else "has no finished run yet"
        raise FedShieldError(f"{directory}: this study {what}, so there is nothing to measure; give a study or a run")
    failed = 0
    for place, run in enumerate(runs, 1):
        record = read_privacy(run)
        kept = _holds(run, record, examples, shadows)
        try:
            if not kept:
                record, _ = measure_privacy(run, changes, examples, shadows, trust_code)
        except FedShieldError as error:
            failed += 1
            log.warning("[%d/%d] %s  failed: %s", place, len(runs), run.name, error)
            continue
        told = "  ".join(f"AUC {name} {group['auc']:.3f}" for name, group in record["groups"].items())
        log.info("[%d/%d] %s  %s%s", place, len(runs), run.name, told, "  (measured before)" if kept else "")
    gather(study, planned, directory)
    if failed:
        raise FedShieldError(f"{failed} of {len(runs)} runs could not be measured: see above; the others are kept")
    return directory / "results.csv"


def _holds(run: Path, record: dict[str, Any], examples: int, shadows: int) -> bool:
    """Return whether a run's ``privacy.json`` is of its present model, and was made with these options."""
    if not record or record["sha256"] != (selected_checkpoint(run) or {}).get("sha256"):
        return False
    return bool(record["examples"] == examples and (record["shadows"] or {"count": 0})["count"] == shadows)
