"""The run directory: everything a run leaves behind, and what it needs to be resumed.

config.json  environment.json  partition.json  metrics.jsonl (one line a round)
checkpoint/  summary.json (only when finished)  figures/  own/ (the user's code)
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout
from torch import Tensor

from common.config.flat import Flat
from common.config.schema import RunConfig
from common.errors import DeadEndError, FedShieldError, explain_os_errors
from common.files import append_json_line, read_json, replace_json
from common.links import refuse_links
from common.messages.records import State
from common.paths import whole_path
from server.run_directory.checkpoint import load_kept, load_model, load_momenta, write_checkpoint
from server.run_directory.environment import went_on
from server.run_directory.index import UNAVERAGED, count_completed, read_checkpoint, restore_checkpoint
from server.run_directory.lock import written_to
from server.run_directory.opening import (
    check_empty,
    is_finished,
    keep_code,
    keep_lines,
    keep_summary,
    new_place,
    ran_to_its_end,
)
from server.run_directory.reader import DEPLOYED, FEDERATION, Kind, read_config, read_environment, read_metrics
from server.run_directory.restored import same_settings, whole_weights

log = logging.getLogger("fedshield")


class RunDir:
    """One run's directory, locked while it is open; a ``with`` block says where it is and how to go on.

    Args:
        path: absolute; must be there.
        kind: of the run.
        config: of the run.

    Attributes:
        path: absolute.
        kind: of the run.
        total: rounds of the whole run (epochs, where there is no federation).
        completed_rounds: of them, finished ones.
        finished: that nothing is left to compute.
    """

    def __init__(self, path: Path, kind: Kind, config: RunConfig) -> None:
        self.path = path
        self.kind = kind
        self.total = kind.total(config)
        self.completed_rounds = 0
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
        config = whole_weights(config)
        return cls._resume(config, kind) if config.results.resume else cls._create(config, kind)

    @classmethod
    def _create(cls, config: RunConfig, kind: Kind) -> Self:
        folder = whole_path(config.results.dir)
        run = cls(folder / config.results.name if config.results.name else new_place(folder, config), kind, config)
        with explain_os_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            refuse_links(run.path)
            run._acquire()
            check_empty(run.path, kind)
            # The trackers start again with the run.
            (run.path / "trackers.json").unlink(missing_ok=True)
        keep_code(run.path, config)
        run.write_environment({})  # before config.json, without which nothing is continued: the kind is always known
        run.write_json("config.json", config.model_dump(by_alias=True))
        return run

    @classmethod
    def _resume(cls, config: RunConfig, kind: Kind) -> Self:
        run = cls(whole_path(config.results.resume), kind, config)
        stored = same_settings(config, kind)
        with explain_os_errors(run.path):
            run._acquire()
        try:
            run._go_on(config, stored)
        except BaseException:
            run.close()
            raise
        return run

    def _go_on(self, config: RunConfig, stored: Flat) -> None:
        """Find the last finished round, and drop what came after it; of a finished run, nothing is changed."""
        checkpoint = restore_checkpoint(self.path)
        self.completed_rounds = checkpoint["round"] if checkpoint else 0
        self.finished = is_finished(self.path, self.kind, self.completed_rounds, stored, config)
        if self.finished:
            return
        keep_code(self.path, config, begun=self.completed_rounds > 0)
        keep_lines(self.path, self.kind, self.completed_rounds)
        keep_summary(self.path)
        # 0 threads stays 0, for all cores: how many there were is in environment.json.
        self.write_json("config.json", {**config.model_dump(by_alias=True), "threads": stored["threads"]})

    def _acquire(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise written_to(self.path) from error

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
                log.warning("%s", self._way_on(error), extra=self._event("stop"))
        finally:
            self.close()
        if error is None:
            self._tell("end")

    def _way_on(self, error: BaseException) -> str:
        """Return where a run has stopped and how to continue, in a way that will not fail again."""
        stopped, again = f"Stopped after {self.kind.unit} {self.completed_rounds}", self.kind.again(self.path)
        if isinstance(error, KeyboardInterrupt):
            return f"{stopped}; continue with: {again}"
        if self.completed_rounds == 0:
            return f"Stopped before the end of {self.kind.unit} 1; fix the cause and start again in the same way"
        if isinstance(error, DeadEndError):
            return f"{stopped}; if you resume it as it is, it stops there again"
        return f"{stopped}; fix the cause and continue with: {again}"

    def _tell(self, event: str) -> None:
        log.info("Run directory: %s", self.path, extra=self._event(event))

    def _event(self, name: str) -> dict[str, dict[str, str]]:
        return {"event": {"event": name, "path": str(self.path)}}

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

        What the run began with stays; when it is resumed, what differs is added under ``resumed``.
        """
        first = read_environment(self.path) if self._resumed else {}
        if "command" in first:
            described, told = went_on(first, described, self.completed_rounds)
            if told:
                log.warning("%s: continues with a change (%s): the last digits may differ from now on", self.path, told)
        deployed = {"deployed": True} if self.kind == DEPLOYED else {}
        self.write_json("environment.json", {"kind": self.kind.name, **deployed, **described})

    def write_partition(self, described: dict[str, Any]) -> None:
        """Write ``partition.json``; a run that goes on must go on with the same division.

        Raises:
            FedShieldError: the data is divided otherwise than when the run began.
        """
        path = self.path / "partition.json"
        # Earlier versions kept less of it.
        before = read_json(path, "start a new run") if self.completed_rounds and path.exists() else {}
        # How far sharing aligns the clients is measured anew: on another processor, its last digit may differ.
        changed = {key for key, value in before.items() if key != "alignment" and described.get(key) != value}
        if changed and changed <= {"shared", "shared-kind", "shared-sha256"}:
            raise FedShieldError(
                f"{self.path}: what the clients receive is not what it was at the start of the run: sharing.root "
                "contains other images, or an earlier version made it in another way; give the same ones, or start a "
                "new run"
            )
        if changed:
            raise FedShieldError(
                f"{self.path}: data.root contains other images than at the start of the run, or an earlier version "
                "divided them in another way; give the same ones, or start a new run"
            )
        self.write_json(path.name, described)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append one round to ``metrics.jsonl``."""
        append_json_line(self.path / "metrics.jsonl", record)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the finished rounds; an incomplete last line is ignored."""
        return read_metrics(self.path)

    def save_checkpoint(
        self,
        round_or_epoch: int,
        state: State,
        validation: dict[str, Any] | None = None,
        momenta: Sequence[Tensor] = (),
        kept: Mapping[str, State] | None = None,
    ) -> None:
        """Replace the checkpoint, in a thread: the next round need not wait for the disk.

        Args:
            round_or_epoch: the finished one, 1 or more.
            state: nobody may change it afterwards.
            validation: as in ``write_checkpoint``: given when this model is the best so far.
            momenta: of SGD, where the next epoch goes on from them; nobody may change them afterwards.
            kept: as in ``write_checkpoint``; nobody may change it afterwards.

        Raises:
            FedShieldError: the one before could not be written.
        """
        self.wait()
        self._writing = self._writer.submit(self._write_checkpoint, round_or_epoch, state, validation, momenta, kept)

    def wait(self) -> None:
        """Return when the checkpoint is on disk.

        Raises:
            FedShieldError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write_checkpoint(self, round_or_epoch: int, *content: Any) -> None:
        write_checkpoint(self.path, round_or_epoch, *content)
        self.completed_rounds = round_or_epoch

    def load_checkpoint(self) -> State | None:
        """Return the weights to go on from after round ``completed_rounds``, or None when no round is finished."""
        if (checkpoint := read_checkpoint(self.path)) is None:
            return None
        return load_kept(self.path, checkpoint, UNAVERAGED) or load_model(self.path, checkpoint)

    def load_kept(self, whose: str) -> State:
        """Return what the method has kept at the ``server`` or at the ``clients`` after ``completed_rounds``."""
        return load_kept(self.path, read_checkpoint(self.path) or {}, whose)

    def load_momenta(self) -> list[Tensor]:
        """Return SGD's momentum buffers after epoch ``completed_rounds``; none where none were stored."""
        return load_momenta(self.path, read_checkpoint(self.path) or {})


def finished_run(config: RunConfig, kind: Kind = FEDERATION) -> Path | None:
    """Return the directory of the run that ``results.resume`` names where nothing of it is left to compute; else None.

    Raises:
        FedShieldError: as ``RunDir.open`` does for such a run.
    """
    if not config.results.resume:
        return None
    path = whole_path(config.results.resume)
    read_config(path, kind)
    if not ran_to_its_end(path, kind.total(config), count_completed(path)):
        return None
    with RunDir.open(config, kind) as run:
        return run.path if run.finished else None
