"""The configuration of an existing run, to resume or to measure it; its code runs only if it is trusted."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from common.config.flat import Flat, merge
from common.config.schema import OWN_TABLES, RunConfig, parse_config
from common.errors import FedShieldError
from common.machine import fitting_precision
from common.paths import whole_path
from common.trust import is_trusted, require_trust
from common.user_code import read_user_code, user_file
from server.run_directory.reader import Kind, find_results, parse_stored, read_config, read_environment

# What may differ between a run and its continuation: length, place, the server's patience, what is measured beside.
RESUMABLE_KEYS = (
    "federation.rounds",
    "federation.min-fraction",
    "federation.node-wait-seconds",
    "federation.client-timeout-seconds",
    "centralized.epochs",
    "privacy.epsilon-max",
    "evaluate.final-",
    "diagnosis.",
    "results.",
    "data.root",
    "sharing.root",
)
ROOTS = ("data.root", "sharing.root")  # folders of images
PUBLISHED_WEIGHTS = "torchvision"  # model.weights that are no path


def first_threads(run_dir: Path) -> int:
    """Return the number of threads with which a run began; 0 if it has not stored that."""
    return int(read_environment(run_dir).get("threads", 0))


def with_first_threads(config: RunConfig) -> RunConfig:
    """Return the configuration of a run that goes on with as many threads as it began with, where ``threads`` is 0."""
    if config.threads or not config.results.resume:
        return config
    first = first_threads(whole_path(config.results.resume))
    return config.model_copy(update={"threads": first})


def first_precision(run_dir: Path) -> str:
    """Return the precision of the training attack with which a run began; empty if it has not stored that."""
    return str(read_environment(run_dir).get("attack-precision", ""))


def with_first_precision(config: RunConfig) -> RunConfig:
    """Return a configuration in which ``train.attack-precision`` is not ``auto``.

    It is what a run that goes on began with; for a new one, what suits this processor.
    """
    if config.train.attack_precision != "auto":
        return config
    first = first_precision(whole_path(config.results.resume)) if config.results.resume else ""
    train = config.train.model_copy(update={"attack_precision": first or fitting_precision()})
    return config.model_copy(update={"train": train})


def whole_weights(config: RunConfig) -> RunConfig:
    """Return a configuration whose ``model.weights`` is an absolute path, so that it names the same from everywhere.

    Raises:
        FedShieldError: there is no such file or run.
    """
    given = config.model.weights
    if given in ("", PUBLISHED_WEIGHTS) or os.path.isabs(given):
        return config
    path = whole_path(given)
    path = path if path.is_file() else find_results(Path(given))
    if not path.exists():
        raise no_weights(given, path)
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": str(path)})})


def no_weights(given: str, path: Path) -> FedShieldError:
    """Return the error of weights that are not there."""
    return FedShieldError(
        f"model.weights = {given}: no file or run {path}; give FILE.safetensors, a run directory, or torchvision"
    )


def changed_keys(stored: Flat, config: RunConfig) -> Flat:
    """Return the keys that must agree between a run and its continuation but do not: key -> the run's value.

    Args:
        stored: as in ``read_config``.
        config: of the continuation.
    """
    with suppress(FedShieldError):  # spelled as now: an earlier version may have kept "pgd:2" for "pgd:2.0"
        meant = parse_config(stored)
        stored = meant.flat()
        if meant.data.limit == config.data.limit:  # earlier versions stored 1500 for today's -1
            stored["data.max-examples"] = config.data.max_examples
    given = whole_weights(config).flat()
    # What repair has done so far is worked out again, with the number of clients that could be set aside; and what it
    # will do depends on the images that diagnosis looks at.
    kept = ("federation.min-fraction", "diagnosis.") if config.repair.enabled else ()
    return {
        key: value
        for key, value in stored.items()
        if (key.startswith(kept) or not key.startswith(RESUMABLE_KEYS)) and given.get(key) != value
    }


def same_settings(config: RunConfig, kind: Kind) -> Flat:
    """Return the stored configuration of the run that ``results.resume`` names.

    Args:
        config: with which it is to go on.
        kind: of the run.

    Raises:
        FedShieldError: a key that must agree does not; one line with what it is there and now.
    """
    path = whole_path(config.results.resume)
    stored = with_copies(path, read_config(path, kind), config)
    begun = {**stored, "threads": stored["threads"] or first_threads(path)}
    if changed := changed_keys(begun, with_first_threads(config)):
        key, value = next(iter(changed.items()))
        raise FedShieldError(
            f"{path}: belongs to another configuration: {key} = {value!r} there, {config.flat().get(key)!r} now; "
            "resume without changing it, or start a new run"
        )
    return stored


def stored_config(
    run_dir: Path, override: Flat, source: str, trust_code: bool = False, runs: Collection[str] = ("model.name",)
) -> RunConfig:
    """Return the stored configuration of a run with some keys changed; the user's code is that which the run kept.

    Args:
        run_dir: absolute.
        override: the user's changes.
        source: of the changes, for messages.
        trust_code: run code of the run that has not been run on this machine before.
        runs: keys whose code the caller is about to run.

    Raises:
        FedShieldError: the run's code is not to be run unasked; one line that names the file.
    """
    stored = parse_stored(run_dir, read_config(run_dir))
    kept: Flat = {}
    for key, reference in stored.user_code_references():
        if key in runs and key not in override:
            _require_trust(run_dir, key, reference, trust_code)
        if (copy := _copy(run_dir, key)) is not None:
            kept[key] = _in(copy, reference)
    return parse_config(merge({**stored.flat(), **kept, **_roots(run_dir, stored)}, override, source))


def resumed_config(run_dir: Path, kind: Kind, given: Flat, trust_code: bool) -> Flat:
    """Return the stored configuration of a run that is to go on; its code is the user's file, or else the run's copy.

    Args:
        run_dir: absolute.
        kind: what the run has to be.
        given: settings that the user gives for this continuation; code named here needs no ``--trust-code``.
        trust_code: as for ``stored_config``.

    Raises:
        FedShieldError: there is no such run, its code has changed, or is not to be run unasked.
    """
    stored = parse_stored(run_dir, read_config(run_dir, kind))
    kept: Flat = {}
    for key, reference in stored.user_code_references():
        if key in given:
            continue
        if (copy := _copy(run_dir, key)) is not None:
            if not os.path.exists(user_file(reference)):
                kept[key] = _in(copy, reference)
            elif read_user_code(key, reference) != copy.read_bytes():
                raise changed_code(key, reference, copy)
        _require_trust(run_dir, key, reference, trust_code)
    return {**stored.flat(), **kept, **_roots(run_dir, stored)}


def _roots(run_dir: Path, stored: RunConfig) -> Flat:
    """Return ``ROOTS`` from here: a relative one is told from where the run was begun, if it is still there."""
    begun, roots = str(read_environment(run_dir).get("folder", "")), {key: str(stored.flat()[key]) for key in ROOTS}
    if begun in ("", os.getcwd()):
        return {**roots}
    there = {key: os.path.join(begun, os.path.expanduser(root)) for key, root in roots.items() if root}
    return {**roots, **{key: path for key, path in there.items() if os.path.exists(path)}}


def with_copies(run_dir: Path, stored: Flat, config: RunConfig) -> Flat:
    """Return a run's stored configuration that names its copies of the user's code where the continuation has these.

    Args:
        run_dir: absolute.
        stored: as in ``read_config``.
        config: of the continuation.
    """
    given = config.flat()
    copies = {key: _in(copy, str(stored[key])) for key, copy in user_code_copies(run_dir).items()}
    return {**stored, **{key: copy for key, copy in copies.items() if given[key] == copy}}


def changed_code(key: str, reference: str, copy: Path) -> FedShieldError:
    """Return the error of a user's file that is no longer what the run began with.

    Args:
        key: of the configuration.
        reference: ``FILE.py:NAME``.
        copy: which the run has kept of it.
    """
    return FedShieldError(
        f"{key} = {reference}: has changed since the run started; use the run's copy, {copy}, or start a new run"
    )


def _require_trust(run_dir: Path, key: str, reference: str, trust_code: bool) -> None:
    """Check that the code in a run's configuration may run: it is the run's copy, or has run here before.

    Whoever has made the configuration may name any file of this machine, which ``trust_code`` does not allow.
    """
    if (copy := _copy(run_dir, key)) is not None:
        require_trust(copy, run_dir, trust_code)
    elif not is_trusted(read_user_code(key, reference)):
        raise FedShieldError(
            f"{run_dir / 'config.json'}: {key} = {reference}: the run contains no copy of this code, and it has not "
            "run here before; name it yourself (--set, or --attacks of fedshield evaluate), or leave it out"
        )


def _in(file: Path, reference: str) -> str:
    """Return ``FILE.py:NAME`` for the same name in another file."""
    return f"{file}:{reference.rpartition(':')[2]}"


def _copy(run_dir: Path, key: str) -> Path | None:
    """Return the copy of the user's code for a key, where the run has kept one."""
    copy = user_code_copies(run_dir).get(key)
    return copy if copy is not None and copy.is_file() else None


def user_code_copies(run_dir: Path) -> dict[str, Path]:
    """Return where a run keeps the code that the user gave for a key."""
    files = {f"{name}.name": f"{name}.py" for name in OWN_TABLES} | {"federation.selection": "selection.py"}
    return {key: run_dir / "own" / file for key, file in files.items()}
