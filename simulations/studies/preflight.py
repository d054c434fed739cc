"""Before a sweep starts: whether its directory is this study's, and whether its data is there."""

from collections.abc import Sequence
from pathlib import Path

from common.attacks.threat import L2, AttackSpec
from common.config.schema import RunConfig
from common.data.datasets import data_key
from common.errors import FedShieldError, explain_os_errors
from common.files import clear_leftovers
from common.links import refuse_links
from common.parsing import parse_toml
from server.run_directory.reader import KINDS, read_config
from server.run_directory.restored import changed_keys
from simulations.places import holds_study
from simulations.studies.gather import HINT
from simulations.studies.study import Point, Study
from simulations.study_directory import finished_runs


def claim(directory: Path) -> None:
    """Make the study's directory; one that holds something else is left as it is."""
    with explain_os_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        clear_leftovers(directory, "study.toml")  # of a sweep that was killed as it began
    check_claim(directory)
    with explain_os_errors(directory):
        (directory / "runs").mkdir(exist_ok=True)


def check_claim(directory: Path) -> None:
    """Refuse a directory that holds something else than a study; one that is not there is accepted."""
    refuse_links(directory)
    with explain_os_errors(directory):
        present = {entry.name for entry in directory.iterdir()} - {".lock", "runs"} if directory.exists() else set()
        whole = holds_study(directory)
    if present and not whole:
        raise FedShieldError(f"{directory}: contains other files than a study's; choose another --results")


def check_directory(study: Study, points: Sequence[Point], directory: Path) -> None:
    """Refuse a directory with finished, or begun, runs that are not those of this study as it is now."""
    _check_command(study, directory)
    for point in points:
        _check_stored(study, directory / "runs" / point.name, point.config)
    known = {point.name for point in points}
    if others := [name for name in finished_runs(directory) if name not in known]:
        raise FedShieldError(
            f"{directory}: contains {len(others)} finished run{'s' * (len(others) > 1)} not in this study, such as "
            f"{others[0]}; choose another --results"
        )


def check_data(points: Sequence[Point]) -> None:
    """Look for each dataset once, rather than let each run fail; what can be downloaded need not be there yet."""
    found = [point.config.data for point in points]
    for given in {(data.name, data.root, data.image_size, data.resize) for data in found}:
        data_key(*given)


def check_code(study: Study, points: Sequence[Point]) -> None:
    """Try the user's code, and what needs enough clients or classes, before any run starts and fails later.

    Points that do not differ in this are tried once.
    """
    tried = set()
    for point in points if study.command != "partitions" else ():
        config = point.config
        of_network = config.model, config.data, config.loss, config.attack, config.train.label_smoothing
        decisive = *of_network, config.evaluate, config.strategy, config.byzantine, config.federation.cohort
        if decisive in tried or not _needs_trial(config):
            continue
        tried.add(decisive)
        from simulations.studies.trial import try_out  # it imports torch

        try:
            try_out(config, federation=study.command == "run")
        except FedShieldError as error:
            raise FedShieldError(f"study {study.name}, run {point.name}: {error}") from error


def _needs_trial(config: RunConfig) -> bool:
    """Return whether a configuration names others' code, or what needs enough clients, classes or steps."""
    attacks = (*config.evaluate.attacks, *config.final_attacks(classes=2))
    return (
        bool(config.user_code_references())
        or config.model.name.startswith("torchvision:")
        or config.model.weights != ""
        or config.strategy.name != "fedavg"
        or config.byzantine.clients > 0
        or config.attack.norm == L2
        or any(AttackSpec.parse(label).family.classes > 1 for label in attacks)
    )


def _begun(command: str, run: Path) -> bool:
    """Return whether a directory holds what a run of this command has computed."""
    results = ("partition.json",) if command == "partitions" else ("summary.json", "metrics.jsonl", "checkpoint")
    return any((run / name).exists() for name in results)


def _check_command(study: Study, directory: Path) -> None:
    """Refuse a study whose runs were begun with another command."""
    path = directory / "study.toml"
    if not path.exists():
        return
    with explain_os_errors(path):
        content = path.read_bytes()
    try:
        stored = str(parse_toml(content).get("command", study.command))
    except ValueError:  # it is written again
        return
    with explain_os_errors(directory):
        begun = stored != study.command and any(_begun(stored, run) for run in (directory / "runs").iterdir())
    if begun:
        raise FedShieldError(
            f"{directory}: its runs have command = {stored!r}, the study has {study.command!r} now; choose another "
            "--results"
        )


def _check_stored(study: Study, run: Path, config: RunConfig) -> None:
    """Refuse a study that was changed under its finished, or begun, runs."""
    if not _begun(study.command, run):
        return
    if not (run / "config.json").exists():
        raise FedShieldError(f"{run}: damaged (no config.json); {HINT}")
    stored, given = read_config(run, hint=HINT), config.flat()
    # Other runs may be continued for longer, or with another final evaluation; a finished run of a study is not.
    final = (key for key in given if key.startswith("evaluate.final-"))
    ends = [*(kind.length for kind in KINDS.values()), "privacy.epsilon-max", *final]
    others = {key: stored[key] for key in ends if stored[key] != given[key]}
    if changed := {**changed_keys(stored, config), **others}:
        key, value = next(iter(changed.items()))
        raise FedShieldError(
            f"{run}: was run with {key} = {value!r}, the study has {given.get(key)!r} now; delete the run directory, "
            "or choose another --results"
        )
