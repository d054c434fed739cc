"""Checks a run directory in which a run is to start or to be resumed, and prepares its files."""

import errno
import json
import logging
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from common.config.flat import Flat
from common.config.schema import RunConfig
from common.errors import FedShieldError, explain_os_errors
from common.files import append_json_line, clear_leftovers, replace_file
from common.paths import whole_path
from common.trust import trust
from common.user_code import read_user_code, user_file
from common.words import as_file_name
from server.aggregation.accounting import check_spent
from server.run_directory.lock import is_running, written_to
from server.run_directory.reader import Kind, odd_rounds, read_kind, read_metrics, read_summary
from server.run_directory.restored import changed_code, user_code_copies

log = logging.getLogger("fedshield")

# What a run may have left that was killed before its first round.
BEGUN = (
    "config.json",
    "environment.json",
    "partition.json",
    "shared.safetensors",
    "own",
    "trackers.json",
    "tensorboard",
)


def new_place(folder: Path, config: RunConfig) -> Path:
    """Make and return the directory of a run without a name: one for each of those that begin in the same second."""
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{as_file_name(config.data.name)}-seed{config.seed}"
    place, copies = folder / name, 1
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                place.mkdir()
                return place
            except FileExistsError:
                copies += 1
                place = folder / f"{name}-{copies}"


def check_empty(path: Path, kind: Kind) -> None:
    """Refuse a directory of anything else; a run that ended before its first round left nothing to lose.

    Args:
        path: of the directory.
        kind: of the run that is to begin there.

    Raises:
        FedShieldError: there is another run, or something else.
    """
    for name in (*BEGUN, "metrics.jsonl"):
        clear_leftovers(path, name)
    present = {entry.name for entry in path.iterdir()} - {".lock"}
    refuse_other_run(path, kind)
    if present - set(BEGUN):
        raise FedShieldError(f"{path}: contains other files; choose another results.name")


class NameTakenError(FedShieldError):
    """A run is to begin where there is another one.

    Attributes:
        path: of the directory.
        kind: of the run that is there.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        super().__init__(
            f"{path}: contains another run; choose another results.name, or continue it with: {kind.again(path)}"
        )
        self.path, self.kind = path, kind


def check_place(config: RunConfig, kind: Kind) -> None:
    """Check, before anything else is done, that a run can have the directory that is meant.

    Raises:
        NameTakenError: ``results.name`` is that of another run.
        FedShieldError: the run that is to be resumed goes on, or ``results.dir`` cannot be written.
    """
    if config.results.resume:
        if is_running(path := whole_path(config.results.resume)):
            raise written_to(path)
        return
    folder = whole_path(config.results.dir) / config.results.name
    if config.results.name:
        refuse_other_run(folder, kind)
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    with explain_os_errors(there):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def refuse_other_run(path: Path, kind: Kind) -> None:
    """Refuse a directory in which a run has finished a round; one that is not there is accepted.

    Args:
        path: of the directory.
        kind: of the run that is to begin there.

    Raises:
        NameTakenError: there is another run.
    """
    if any(os.path.lexists(path / name) for name in ("metrics.jsonl", "checkpoint", "summary.json")):
        there = read_kind(path)
        raise NameTakenError(path, kind if there.name == kind.name else there)


def is_finished(path: Path, kind: Kind, completed_rounds: int, stored: Flat, config: RunConfig) -> bool:
    """Return whether nothing of a run is left to compute.

    Args:
        path: of its directory.
        kind: of the run.
        completed_rounds: or epochs.
        stored: as in ``read_config``.
        config: with which it is to go on.

    Raises:
        FedShieldError: it cannot get another length, has spent more than ``privacy.epsilon-max``, or nothing is left to
            compute and another final evaluation asked.
    """
    if kind.unit == "round":
        check_spent(config, path, completed_rounds)
    key, unit, schedule = kind.length, kind.unit, config.train.schedule
    now = config.flat()
    asked = int(now[key])
    # Milestones stay where they are when a run is made longer; the other schedules end at its last round.
    stretches = schedule != "milestones"
    if stretches and completed_rounds and stored[key] != asked:
        raise FedShieldError(
            f"{path}: {key} = {stored[key]} there, {asked} now: with train.schedule = {schedule} the {unit}s "
            f"done so far would have had other learning rates; resume with {key}={stored[key]}, or start a new run"
        )
    if not ran_to_its_end(path, kind.total(config), completed_rounds):
        return False
    told = f"{_why_done(path, kind, completed_rounds, asked, stretches)}evaluate it with: fedshield evaluate {path}"
    if other := [key for key in now if key.startswith("evaluate.final-") and now[key] != stored[key]]:
        raise FedShieldError(f"{path}: {other[0]} = {now[other[0]]!r}: {told}")
    log.info("%s%s", told[0].upper(), told[1:])
    return True


def _why_done(path: Path, kind: Kind, completed_rounds: int, asked: int, stretches: bool) -> str:
    """Say why nothing is left to compute, and what would make a run longer."""
    done = f"{completed_rounds} {kind.unit}s are done"
    if ended_by_repair(path):
        return f"{done}, and repair has ended the run; "
    if completed_rounds < asked:
        return f"{done}, and privacy.epsilon-max allows no more; raise it to continue, or "
    if completed_rounds > asked:
        return f"{done}, more than {kind.length} = {asked}, so nothing is left; "
    return f"all {done}; " + ("" if stretches else f"raise {kind.length} to continue, or ")


def ran_to_its_end(path: Path, total: int, completed_rounds: int) -> bool:
    """Return whether a run has its summary, after all of its rounds or after the one with which repair ended it."""
    if not (path / "summary.json").exists():
        return False
    return completed_rounds >= total or ended_by_repair(path)


def ended_by_repair(path: Path) -> bool:
    """Return whether the last round of a run was followed by repair's decision to end it."""
    return any(action["action"] == "end" for line in read_metrics(path)[-1:] for action in line.get("repairs", ()))


def keep_code(path: Path, config: RunConfig, begun: bool = False) -> None:
    """Copy the user's code into the run directory, next to the results.

    Args:
        path: of the run's directory.
        config: which names the code.
        begun: a round is finished, so the run must go on with the same code.

    Raises:
        FedShieldError: the code has changed, or cannot be read or written.
    """
    copies = user_code_copies(path)
    for key, reference in config.user_code_references():
        code = read_user_code(key, reference)
        if (copy := copies.get(key)) is not None:
            if begun and copy.exists() and copy.read_bytes() != code:
                raise changed_code(key, reference, copy)
            with explain_os_errors(copy):
                copy.parent.mkdir(exist_ok=True)
            replace_file(copy, code)
        trust(code, user_file(reference))


def keep_lines(path: Path, kind: Kind, completed_rounds: int) -> None:
    """Write ``metrics.jsonl`` again, with the lines of finished rounds alone; what is odd about them is logged.

    Args:
        path: of the run's directory.
        kind: of the run.
        completed_rounds: or epochs; 0 or more.
    """
    metrics = [record for record in read_metrics(path) if record["round"] <= completed_rounds]
    if odd := odd_rounds(metrics, kind.unit, completed_rounds):
        log.warning("%s: %s; the model is intact; the run continues with the lines that are there", path, odd)
    by_round = {record["round"]: record for record in metrics}  # of several lines, the last
    lines = "".join(json.dumps(by_round[number]) + "\n" for number in sorted(by_round))
    replace_file(path / "metrics.jsonl", lines.encode())


def keep_summary(path: Path) -> None:
    """Move the final evaluation of a run that is made longer to those that ``fedshield evaluate`` has made."""
    file = path / "summary.json"
    summary: dict[str, Any] = {}
    with suppress(FedShieldError):  # damaged, there is nothing to keep
        summary = read_summary(path)
    if final := summary.get("final"):
        at = datetime.fromtimestamp(file.stat().st_mtime).isoformat(timespec="seconds")
        append_json_line(path / "evaluations.jsonl", {"at": at, "round": summary["evaluated-round"], **final})
    file.unlink(missing_ok=True)
