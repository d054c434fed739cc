"""Reads a run directory: the configuration, the kind of run, the finished rounds, their figures."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config.flat import Flat, default_config, flatten
from common.config.schema import RunConfig, parse_config
from common.errors import FedShieldError, explain_os_errors
from common.evaluation.store import Arrays, ArrayStore
from common.files import read_json, read_json_lines
from common.links import refuse_links
from common.paths import whole_path
from common.words import near, some
from server.aggregation.accounting import planned_rounds
from server.run_directory.formats import FileFormat
from server.run_directory.schema import (
    DescribedPartition,
    Environment,
    Evaluated,
    Round,
    Summary,
    check_format,
)


@dataclass(frozen=True)
class Kind:
    """What a run directory holds the run of.

    Attributes:
        name: as ``environment.json`` has it.
        unit: what the run is counted in.
        length: the key that says how many of them.
        command: what starts it.
        resume: what continues it, in words for the user, with ``{command}`` and, for its directory, ``{path}``.
    """

    name: str
    unit: str
    length: str
    command: str
    resume: str = "{command} --resume {path}"

    def total(self, config: RunConfig) -> int:
        """Return how many rounds, or epochs, the run will have; ``privacy.epsilon-max`` may end it earlier.

        Raises:
            FedShieldError: what it takes to know that is not installed.
        """
        return planned_rounds(config) if self.unit == "round" else config.centralized.epochs

    def again(self, run_dir: Path) -> str:
        """Return what continues the run in a directory."""
        return self.resume.format(command=self.command, path=shlex.quote(str(run_dir)))


FEDERATION = Kind("federation", "round", "federation.rounds", "fedshield run")
CENTRALIZED = Kind("centralized", "epoch", "centralized.epochs", "fedshield centralized")
# Started by Flower's commands or by fedshield submit; its directory is that of any federation.
DEPLOYED = replace(FEDERATION, resume="the same settings and results.resume={path}")
# What runs that are older than a key did, where its default is something else.
_BEFORE_IT_WAS_A_KEY: Flat = {"attack.fast": False, "diagnosis.enabled": False}
_BEFORE_WITH: dict[tuple[str, object], Flat] = {  # the same, where another key has this value
    ("data.name", "svhn"): {"train.flip": "on"},
    ("loss.name", "calfat"): {"loss.calfat-absent": 0.0},
}
_NAMED = 10  # rounds, or gaps, in a line
KINDS = {kind.name: kind for kind in (FEDERATION, CENTRALIZED)}


def read_config(run_dir: Path, kind: Kind | None = None, hint: str = "is this a run directory?") -> Flat:
    """Return the stored configuration of a run, flat; a key that is newer than the run has the value that it had then.

    It is read before everything else of a run, which may be somebody else's: links out of the directory are refused.

    Args:
        run_dir: absolute.
        kind: what the run has to be, if that matters.
        hint: what to do where it is not there or damaged.

    Raises:
        FedShieldError: there is no run, its files are damaged or lead elsewhere, or it is of another kind.
    """
    refuse_links(run_dir)
    path = run_dir / "config.json"
    kept = flatten(read_json(path, hint), path)
    stored = {**default_config(), **_BEFORE_IT_WAS_A_KEY}
    for (key, value), before in _BEFORE_WITH.items():
        stored |= before if kept.get(key) == value else {}
    stored |= kept
    if kind is not None and (there := read_kind(run_dir)).name != kind.name:
        raise FedShieldError(f"{run_dir}: belongs to {there.command}; continue it with: {there.again(run_dir)}")
    return stored


def read_kind(run_dir: Path) -> Kind:
    """Return what kind of run a directory holds; earlier versions knew federations only, and wrote nothing of it."""
    environment = read_environment(run_dir)
    # Earlier versions kept only by which of Flower's programs a federation of real clients was started.
    if environment.get("deployed") or str(environment.get("command")).startswith(("flwr", "flower")):
        return DEPLOYED
    return KINDS.get(str(environment.get("kind")), FEDERATION)


def parse_stored(run_dir: Path, stored: Flat) -> RunConfig:
    """Check the configuration that a run has stored; a mistake in it is not the user's, so it names the file.

    Its stored name is not used: the directory may have another name now.

    Raises:
        FedShieldError: a key or value is not one of this version of FedShield.
    """
    try:
        return parse_config({**stored, "results.name": ""})
    except FedShieldError as error:
        raise FedShieldError(
            f"{run_dir / 'config.json'}: damaged, or of another version of FedShield ({error}); use that "
            "version, or start a new run"
        ) from error


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``; an incomplete last line is ignored."""
    return _read_lines(run_dir / "metrics.jsonl", Round)


def odd_rounds(metrics: Sequence[Mapping[str, Any]], unit: str, completed_rounds: int = 0) -> str:
    """Say which rounds are not where they belong in ``metrics.jsonl``; nothing where it has 1, 2, 3, ... in turn.

    Args:
        metrics: its lines.
        unit: of the run.
        completed_rounds: of the run, as far as another file tells of them.
    """
    times = Counter(record["round"] for record in metrics)
    ends = pairwise([0, *sorted(times), max([completed_rounds, *times]) + 1])
    gaps = [str(low + 1) if low + 2 == high else f"{low + 1} to {high - 1}" for low, high in ends if low + 1 < high]
    twice = [str(number) for number, count in sorted(times.items()) if count > 1]
    told = [f"has no line for {unit} {some(gaps, _NAMED)}"] if gaps else []
    told += [f"has several lines for {unit} {some(twice, _NAMED)}"] if twice else []
    told += ["is not in order"] if list(times) != sorted(times) else []
    return f"metrics.jsonl {', '.join(told)}" if told else ""


def lost_rounds(run_dir: Path) -> str:
    """Say what ``odd_rounds`` says, of a run that is read."""
    metrics, unit = read_metrics(run_dir), read_kind(run_dir).unit
    return odd_rounds(metrics, unit, read_summary(run_dir).get("rounds", 0))


def read_evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """Return what ``fedshield evaluate`` has measured, in its order."""
    return _read_lines(run_dir / "evaluations.jsonl", Evaluated)


def read_summary(run_dir: Path) -> dict[str, Any]:
    """Return ``summary.json``; nothing of an unfinished run."""
    return _read_optional(run_dir / "summary.json", Summary)


def read_predictions(run_dir: Path, figures: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the predictions that an evaluation has kept, and its images to show; nothing where they cannot be read.

    Args:
        run_dir: absolute.
        figures: of that evaluation; they name the file, so that arrays of another one are not used.
    """
    if not (name := figures.get("predictions")):
        return {}
    without = f"its images are left out; fedshield evaluate {run_dir} stores them again"
    return ArrayStore(run_dir / "evaluations").load(name, without, _can_be_shown) or {}


def _can_be_shown(arrays: Arrays) -> bool:
    """Return whether arrays are what an evaluation stores next to its figures, in the shapes that readers expect."""
    classes, attacks, labels, predictions = (arrays[x] for x in ("classes", "attacks", "labels", "predictions"))
    images, adversarial = arrays["example_images"], arrays["example_adversarial"]
    shown = [arrays[f"example_{name}"] for name in ("labels", "natural", "attacked")]
    whole = [
        *(classes.ndim == 1, attacks[0] == "natural", labels.shape == (max(1, labels.size),)),
        *(predictions.shape == attacks.shape + labels.shape, all(each.shape == images.shape[:1] for each in shown)),
        *(images.shape == adversarial.shape, images.shape[1] == 3, images.ndim == 4),
        *(images.dtype == np.uint8, adversarial.dtype == np.float32, np.isfinite(adversarial).all()),
        *(arrays["images"].shape == (), arrays["example_attack"].shape == ()),
        *(each.dtype.kind == "i" for each in (labels, predictions, *shown)),
        *(np.isin(each, range(len(classes))).all() for each in (labels, predictions, *shown)),
        # Earlier versions kept no names of the single images.
        (ids := arrays.get("image_ids")) is None or (ids.shape == labels.shape and ids.dtype == np.uint64),
    ]
    return all(whole)


def read_environment(run_dir: Path) -> dict[str, Any]:
    """Return ``environment.json``; nothing where there is none."""
    return _read_optional(run_dir / "environment.json", Environment)


def read_described_partition(run_dir: Path) -> dict[str, Any]:
    """Return ``partition.json``; nothing where there is none."""
    return _read_optional(run_dir / "partition.json", DescribedPartition)


def read_classes(run_dir: Path) -> tuple[str, ...]:
    """Return the names of the classes, in the order of the model's logits.

    Raises:
        FedShieldError: ``partition.json`` is missing or damaged.
    """
    if not (described := read_described_partition(run_dir)):
        raise FedShieldError(f"{run_dir / 'partition.json'}: not found; start a new run")
    return tuple(described["classes"])


def _read_optional(path: Path, wanted: type[FileFormat]) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = read_json(path, "remove it; commands work without it")
    check_format(content, wanted, str(path))
    return content


def _read_lines(path: Path, wanted: type[FileFormat]) -> list[dict[str, Any]]:
    records = read_json_lines(path)
    for number, record in enumerate(records, 1):
        check_format(record, wanted, f"{path}: line {number}")
    return records


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return what runs are called where several are shown: by their folders' names, or their paths if two are alike."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def find_results(given_path: Path) -> Path:
    """Return the directory of a study or a run from its path, or from its name where it is in the default place.

    A folder of that name in the working directory which holds neither is ignored.

    Raises:
        FedShieldError: there is none, and one with nearly that name.
    """
    path, default = whole_path(given_path), Path(str(default_config()["results.dir"]))
    by_name = default / given_path
    with explain_os_errors(path):
        known = [entry.name for entry in default.iterdir() if entry.is_dir()] if default.is_dir() else []
        if not path.exists() and not by_name.exists() and (meant := near(str(given_path), known)):
            raise FedShieldError(f"{path}: not found{meant}")
        if not path.exists() or (path.is_dir() and not _holds_results(path)):
            path = by_name if _holds_results(by_name) or (by_name.is_dir() and not path.exists()) else path
    return whole_path(path)


def is_run(path: Path) -> bool:
    """Return whether a folder is a run's; one of its files may have been lost."""
    others = ("environment.json", "metrics.jsonl")
    return (path / "config.json").is_file() and any((path / name).exists() for name in others)


def _holds_results(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "study.toml", "results.csv"))
