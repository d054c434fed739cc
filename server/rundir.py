"""The run directory: everything a run leaves behind, and what it needs to be resumed.

config.json  environment.json  partition.json  metrics.jsonl (one line a round)
checkpoint/  summary.json (only when finished)  figures/  own/ (the user's code)
"""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout
from torch import Tensor

from common.config import RunConfig
from common.errors import DeadEndError, FedShieldError, explain_os_errors
from common.files import append_json_line, clear_leftovers, read_json, replace_file, replace_json
from common.flat import Flat
from common.links import refuse_links
from common.own import own_code, own_file
from common.places import whole_path
from common.records import State
from common.trust import trust
from server.checkpoint import (
    load_model,
    load_momenta,
    read_checkpoint,
    restore_checkpoint,
    rounds_done,
    write_checkpoint,
)
from server.environment import went_on
from server.stored import (
    DEPLOYED,
    FEDERATION,
    Kind,
    changed_code,
    changed_keys,
    first_threads,
    odd_rounds,
    own_copies,
    read_config,
    read_environment,
    read_kind,
    read_metrics,
    read_summary,
    with_copies,
    with_first_threads,
)

log = logging.getLogger("fedshield")

# What a run may have left that was killed before its first round.
_BEGUN = ("config.json", "environment.json", "partition.json", "own", "trackers.json", "tensorboard")


class RunDir:
    """One run's directory, locked while it is open; a ``with`` block says where it is and how to go on.

    Attributes:
        path: absolute.
        kind: of the run.
        total: rounds of the whole run (epochs, where there is no federation).
        done: finished ones.
        finished: that nothing is left to compute.
    """

    def __init__(self, path: Path, kind: Kind, config: RunConfig) -> None:
        self.path = path
        self.kind = kind
        self.total = int(config.flat()[kind.length])
        self.done = 0
        self.finished = False
        self._resumed = bool(config.results.resume)
        self._lock = FileLock(path / ".lock")
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    @classmethod
    def open(cls, config: RunConfig, kind: Kind = FEDERATION) -> Self:
        """Create the directory of a new run, or open the one that ``results.resume`` names.

        Raises:
            FedShieldError: it cannot be written, holds another run, or belongs to another configuration.
        """
        return cls._resume(config, kind) if config.results.resume else cls._create(config, kind)

    @classmethod
    def _create(cls, config: RunConfig, kind: Kind) -> Self:
        folder = whole_path(config.results.dir)
        run = cls(folder / config.results.name if config.results.name else _new_place(folder, config), kind, config)
        with explain_os_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            refuse_links(run.path)
            run._acquire()
            run._check_empty()
            # Trackers begin anew with the run.
            (run.path / "trackers.json").unlink(missing_ok=True)
        run._keep_own(config)
        run.write_environment({})  # before config.json, without which nothing is continued: the kind is always known
        run.write_json("config.json", config.model_dump(by_alias=True))
        return run

    @classmethod
    def _resume(cls, config: RunConfig, kind: Kind) -> Self:
        run = cls(whole_path(config.results.resume), kind, config)
        stored = with_copies(run.path, read_config(run.path, kind), config)
        begun = {**stored, "threads": stored["threads"] or first_threads(run.path)}
        if changed := changed_keys(begun, with_first_threads(config)):
            key, value = next(iter(changed.items()))
            raise FedShieldError(
                f"{run.path}: belongs to another configuration: {key} = {value!r} there, "
                f"{config.flat().get(key)!r} now; resume without changing it, or start a new run"
            )
        with explain_os_errors(run.path):
            run._acquire()
        try:
            run._go_on(config, stored)
        except BaseException:
            run.close()
            raise
        return run

    def _check_empty(self) -> None:
        """Refuse a directory of anything else; a run that ended before its first round left nothing to lose."""
        for name in (*_BEGUN, "metrics.jsonl"):
            clear_leftovers(self.path, name)
        present = {entry.name for entry in self.path.iterdir()} - {".lock"}
        if present & {"metrics.jsonl", "checkpoint", "summary.json"}:
            there = read_kind(self.path)
            raise FedShieldError(
                f"{self.path}: holds another run; choose another results.name, or continue it with: "
                f"{(self.kind if there.name == self.kind.name else there).again(self.path)}"
            )
        if present - set(_BEGUN):
            raise FedShieldError(f"{self.path}: holds other files; choose another results.name")

    def _go_on(self, config: RunConfig, stored: Flat) -> None:
        """Find the last finished round, and drop what came after it; of a finished run, nothing is changed."""
        checkpoint = restore_checkpoint(self.path)
        self.done = checkpoint["round"] if checkpoint else 0
        self._check_length(stored, config)
        if self.finished:
            return
        self._keep_own(config)
        metrics = [record for record in self.metrics() if record["round"] <= self.done]
        if odd := odd_rounds(metrics, self.kind.unit, self.done):
            log.warning("%s: %s; the model is whole, and goes on with the lines that are there", self.path, odd)
        by_round = {record["round"]: record for record in metrics}  # of several lines, the last
        lines = "".join(json.dumps(by_round[number]) + "\n" for number in sorted(by_round))
        replace_file(self.path / "metrics.jsonl", lines.encode())
        self._keep_summary()
        # All cores stay all cores: how many there were is in environment.json.
        self.write_json("config.json", {**config.model_dump(by_alias=True), "threads": stored["threads"]})

    def _keep_summary(self) -> None:
        """Move the final evaluation of a run that is made longer to those that ``fedshield evaluate`` has made."""
        path = self.path / "summary.json"
        summary: dict[str, Any] = {}
        with suppress(FedShieldError):  # damaged, there is nothing to keep
            summary = read_summary(self.path)
        if final := summary.get("final"):
            at = datetime.fromtimestamp(path.stat().st_mtime).isoformat(timespec="seconds")
            append_json_line(self.path / "evaluations.jsonl", {"at": at, "round": summary["evaluated-round"], **final})
        path.unlink(missing_ok=True)

    def _keep_own(self, config: RunConfig) -> None:
        """Copy the user's code beside the results that it gave; a run that goes on must go on with the same."""
        copies = own_copies(self.path)
        for key, reference in config.own_references():
            code = own_code(key, reference)
            if (copy := copies.get(key)) is not None:
                if self.done and copy.exists() and copy.read_bytes() != code:
                    raise changed_code(key, reference, copy)
                with explain_os_errors(copy):
                    copy.parent.mkdir(exist_ok=True)
                replace_file(copy, code)
            trust(code, own_file(reference))

    def _check_length(self, stored: Flat, config: RunConfig) -> None:
        """See how long the run is, and whether it is finished."""
        key, unit, path, schedule = self.kind.length, self.kind.unit, self.path, config.train.schedule
        # Milestones stay where they are when a run is made longer; the other schedules end at its last round.
        stretches = schedule != "milestones"
        if stretches and self.done and stored[key] != self.total:
            raise FedShieldError(
                f"{path}: {key} = {stored[key]} there, {self.total} now: with train.schedule = {schedule} the {unit}s "
                f"done so far would have had other learning rates; resume with {key}={stored[key]}, or start a new run"
            )
        self.finished = self.done >= self.total and (path / "summary.json").exists()
        if not self.finished:
            return
        longer = "" if stretches else f"raise {key} to go on, or "
        told = f"all {self.done} {unit}s are done; {longer}evaluate it with: fedshield evaluate {path}"
        now = config.flat()
        if other := [key for key in now if key.startswith("evaluate.final-") and now[key] != stored[key]]:
            raise FedShieldError(f"{path}: {other[0]} = {now[other[0]]!r}: {told}")
        log.info("%s%s", told[0].upper(), told[1:])

    def _acquire(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise FedShieldError(f"{self.path}: another process is writing to this run; wait for it to end") from error

    def __enter__(self) -> Self:
        self._tell("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, (FedShieldError, OSError, KeyboardInterrupt)):
                try:
                    self.wait()
                except FedShieldError as unwritten:
                    log.warning("%s", unwritten)
                log.warning("%s", self._way_on(error))
        finally:
            self.close()
        if error is None:
            self._tell("end")

    def _way_on(self, error: BaseException) -> str:
        """Return where a run has stopped, and what brings it on; what would end it in the same way is not offered."""
        stopped, again = f"Stopped after {self.kind.unit} {self.done}", self.kind.again(self.path)
        if isinstance(error, KeyboardInterrupt):
            return f"{stopped}; continue with: {again}"
        if self.done == 0:
            return f"Stopped before the end of {self.kind.unit} 1; mend the reason and begin again in the same way"
        if isinstance(error, DeadEndError):
            return f"{stopped}; resumed as it is, it would stop there again"
        return f"{stopped}; mend the reason and continue with: {again}"

    def _tell(self, event: str) -> None:
        log.info("Run directory: %s", self.path, extra={"event": {"event": event, "path": str(self.path)}})

    def close(self) -> None:
        """Finish the checkpoint, and let other processes write to the directory."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._lock.release()

    def write_json(self, name: str, content: Any) -> None:
        """Write one of the JSON files, atomically."""
        replace_json(self.path / name, content)

    def write_environment(self, described: dict[str, Any]) -> None:
        """Write ``environment.json``, with the kind of run.

        What the run began with stays; of what it goes on with, what differs is added under ``resumed``.
        """
        first = read_environment(self.path) if self._resumed else {}
        if "command" in first:
            described, told = went_on(first, described, self.done)
            if told:
                log.warning("%s: goes on otherwise than it began (%s): its last digits may differ", self.path, told)
        deployed = {"deployed": True} if self.kind == DEPLOYED else {}
        self.write_json("environment.json", {"kind": self.kind.name, **deployed, **described})

    def write_partition(self, described: dict[str, Any]) -> None:
        """Write ``partition.json``; a run that goes on must go on with the same division."""
        path = self.path / "partition.json"
        # Earlier versions kept less of it.
        before = read_json(path, "start a new run") if self.done and path.exists() else {}
        if any(described.get(key) != value for key, value in before.items()):
            raise FedShieldError(
                f"{self.path}: data.root holds other images than those that the run began with; give the same ones, or "
                "start a new run"
            )
        self.write_json(path.name, described)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append one round to ``metrics.jsonl``."""
        append_json_line(self.path / "metrics.jsonl", record)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the finished rounds; a last line that was cut short is passed over."""
        return read_metrics(self.path)

    def save_checkpoint(
        self, number: int, state: State, validation: dict[str, Any] | None = None, momenta: Sequence[Tensor] = ()
    ) -> None:
        """Replace the checkpoint, in a thread: the next round need not wait for the disk.

        Args:
            number: the finished round or epoch.
            state: nobody may change it afterwards.
            validation: as of ``write_checkpoint``: given when this model is the best so far.
            momenta: of SGD, where the next epoch goes on from them; nobody may change them afterwards.

        Raises:
            FedShieldError: the one before could not be written.
        """
        self.wait()
        self._writing = self._writer.submit(self._write_checkpoint, number, state, validation, momenta)

    def wait(self) -> None:
        """Return when the checkpoint is on disk.

        Raises:
            FedShieldError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write_checkpoint(
        self, number: int, state: State, validation: dict[str, Any] | None, momenta: Sequence[Tensor]
    ) -> None:
        write_checkpoint(self.path, number, state, validation, momenta)
        self.done = number

    def load_checkpoint(self) -> State | None:
        """Return the weights after round ``done``, or None when no round is finished."""
        checkpoint = read_checkpoint(self.path)
        return load_model(self.path, checkpoint) if checkpoint else None

    def load_momenta(self) -> list[Tensor]:
        """Return SGD's momentum buffers after epoch ``done``; none where none were stored."""
        return load_momenta(self.path, read_checkpoint(self.path) or {})


def _new_place(folder: Path, config: RunConfig) -> Path:
    """Make and return the directory of a run without a name: one for each of those that begin in the same second."""
    usual = f"{datetime.now():%Y%m%d-%H%M%S}-{config.data.name}-seed{config.seed}"
    place, number = folder / usual, 1
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                place.mkdir()
                return place
            except FileExistsError:
                number += 1
                place = folder / f"{usual}-{number}"


def finished_run(config: RunConfig, kind: Kind = FEDERATION) -> Path | None:
    """Return the directory of the run that ``results.resume`` names where nothing of it is left to compute; else None.

    Raises:
        FedShieldError: as ``RunDir.open`` does for such a run.
    """
    if not config.results.resume:
        return None
    path = whole_path(config.results.resume)
    read_config(path, kind)
    if rounds_done(path) < int(config.flat()[kind.length]) or not (path / "summary.json").exists():
        return None
    with RunDir.open(config, kind) as run:
        return run.path if run.finished else None
