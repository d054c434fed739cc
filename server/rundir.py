"""The run directory: everything a run leaves behind, and what it needs to be resumed.

config.json  environment.json  partition.json  metrics.jsonl (one line a round)
checkpoint/  summary.json (only when finished)  figures/
"""

import hashlib
import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from safetensors.torch import load, save

from common.config import RunConfig, parse_config
from common.errors import FedShieldError, explain_os_errors
from common.flat import Flat, flatten, merge
from common.records import State

# What may differ between a run and its continuation: its length, its place, and how patient the server is.
_MAY_CHANGE = (
    "federation.rounds",
    "federation.min-fraction",
    "federation.node-wait-seconds",
    "federation.client-timeout-seconds",
    "results.",
    "data.root",
)


class RunDir:
    """One run's directory, locked while it is open.

    Attributes:
        path: absolute.
        done: finished rounds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = 0
        self._lock = FileLock(path / ".lock")
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    @classmethod
    def open(cls, config: RunConfig) -> Self:
        """Create the directory of a new run, or open the one that ``results.resume`` names.

        Raises:
            FedShieldError: it cannot be written, holds another run, or belongs to another configuration.
        """
        return cls._resume(config) if config.results.resume else cls._create(config)

    @classmethod
    def _create(cls, config: RunConfig) -> Self:
        name = config.results.name or f"{datetime.now():%Y%m%d-%H%M%S}-{config.data.name}-seed{config.seed}"
        run = cls(Path(config.results.dir).expanduser().absolute() / name)
        with explain_os_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            run._acquire()
            # A run that ended before its first round left nothing to lose, and may start again.
            present = {entry.name for entry in run.path.iterdir()} - {".lock"}
            if present & {"metrics.jsonl", "checkpoint", "summary.json"}:
                raise FedShieldError(
                    f"{run.path}: holds another run; choose another --name, or continue it with --resume {run.path}"
                )
            if present - {"config.json", "environment.json", "partition.json"}:
                raise FedShieldError(f"{run.path}: holds other files; choose another --name")
        run.write_json("config.json", config.model_dump(by_alias=True))
        return run

    @classmethod
    def _resume(cls, config: RunConfig) -> Self:
        run = cls(Path(config.results.resume).expanduser().absolute())
        stored = read_config(run.path)
        given = config.flat()
        for key, value in stored.items():
            if not key.startswith(_MAY_CHANGE) and given.get(key) != value:
                raise FedShieldError(
                    f"{run.path}: belongs to another configuration: {key} = {value!r} there, {given.get(key)!r} now; "
                    "resume without changing it, or start a new run"
                )
        with explain_os_errors(run.path):
            run._acquire()
        checkpoint = read_checkpoint(run.path)
        run.done = checkpoint["round"] if checkpoint else 0
        if run.done >= config.federation.rounds and (run.path / "summary.json").exists():
            raise FedShieldError(
                f"{run.path}: all {run.done} rounds are done; raise federation.rounds to go on, or evaluate it with: "
                f"fedshield evaluate {run.path}"
            )
        lines = "".join(json.dumps(record) + "\n" for record in run.metrics() if record["round"] <= run.done)
        run._replace("metrics.jsonl", lines.encode())
        (run.path / "summary.json").unlink(missing_ok=True)
        run.write_json("config.json", config.model_dump(by_alias=True))
        return run

    def _acquire(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise FedShieldError(f"{self.path}: another process is writing to this run; wait for it to end") from error

    def close(self) -> None:
        """Finish the checkpoint, and let other processes write to the directory."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._lock.release()

    def write_json(self, name: str, content: Any) -> None:
        """Write one of the JSON files, atomically."""
        self._replace(name, (json.dumps(content, indent=2) + "\n").encode())

    def write_partition(self, described: dict[str, Any]) -> None:
        """Write ``partition.json``; a run that goes on must go on with the same division."""
        path = self.path / "partition.json"
        if self.done and path.exists() and _read_json(path, "start a new run") != described:
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

    def save_checkpoint(self, server_round: int, state: State) -> None:
        """Replace the checkpoint, in a thread: the next round need not wait for the disk.

        Args:
            server_round: the finished round.
            state: nobody may change it afterwards.

        Raises:
            FedShieldError: the one before could not be written.
        """
        self.wait()
        self._writing = self._writer.submit(self._write_checkpoint, server_round, state)

    def wait(self) -> None:
        """Return when the checkpoint is on disk.

        Raises:
            FedShieldError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write_checkpoint(self, server_round: int, state: State) -> None:
        """Write the model beside the old one, then replace the JSON that names it."""
        old = read_checkpoint(self.path)
        content = save({name: tensor.contiguous() for name, tensor in state.items()})
        model = f"model-{server_round:04}.safetensors"
        self._replace(f"checkpoint/{model}", content)
        digest = hashlib.sha256(content).hexdigest()
        self.write_json("checkpoint/checkpoint.json", {"round": server_round, "model": model, "sha256": digest})
        self.done = server_round
        if old and old["model"] != model:
            (self.path / "checkpoint" / old["model"]).unlink(missing_ok=True)

    def load_checkpoint(self) -> State | None:
        """Return the weights after round ``done``, or None when no round is finished."""
        checkpoint = read_checkpoint(self.path)
        return load_model(self.path, checkpoint) if checkpoint else None

    def _replace(self, name: str, content: bytes) -> None:
        """Write a file so that it is the old one or the new one at every moment, also when the power fails."""
        path = self.path / name
        partial = path.with_name(f"{path.name}.partial")
        with explain_os_errors(path):
            path.parent.mkdir(exist_ok=True)
            try:
                with partial.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append one line to a JSON-lines file."""
    with explain_os_errors(path), path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_config(run_dir: Path) -> Flat:
    """Return the stored configuration of a run, flat."""
    return flatten(_read_json(run_dir / "config.json", "is this a run directory?"))


def stored_config(run_dir: Path, override: Flat, source: str) -> RunConfig:
    """Return the stored configuration of a run with some keys changed."""
    return parse_config(merge(read_config(run_dir), override, source))


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``; a last line that was cut short is passed over."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    with explain_os_errors(path):
        lines = path.read_text().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise FedShieldError(f"{path}: line {number} is damaged; remove that line") from error
    return records


def read_checkpoint(run_dir: Path) -> dict[str, Any] | None:
    """Return round, model file and SHA-256 of the checkpoint, or None when there is none."""
    path = run_dir / "checkpoint" / "checkpoint.json"
    return _read_json(path, "start a new run") if path.exists() else None


def load_model(run_dir: Path, checkpoint: dict[str, Any]) -> State:
    """Return the weights of a checkpoint, once their SHA-256 is checked."""
    path = run_dir / "checkpoint" / checkpoint["model"]
    with explain_os_errors(path):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != checkpoint["sha256"]:
        raise FedShieldError(f"{path}: damaged (wrong SHA-256); start a new run, or restore the file")
    state: State = load(content)
    return state


def _read_json(path: Path, hint: str) -> dict[str, Any]:
    if not path.is_file():
        raise FedShieldError(f"{path}: not there; {hint}")
    with explain_os_errors(path):
        text = path.read_bytes()
    try:
        content: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise FedShieldError(f"{path}: damaged (not valid JSON); {hint}") from error
    return content
