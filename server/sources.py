"""Runs on whose models adversarial examples are made, to be tried on the model of another run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.data.server_data import class_counts
from common.errors import FedShieldError
from common.evaluation.transfer import can_transfer
from common.factory import check_user_code, make_model
from common.user_code import user_code_digest
from server.run_directory.checkpoint import fit_state, selected_model
from server.run_directory.index import selected_checkpoint
from server.run_directory.reader import names_of, parse_stored, read_classes, read_config, read_described_partition
from server.run_directory.restored import stored_config

log = logging.getLogger("fedshield")

_RUNS = ("model.name",)  # the key whose user's code is run


@dataclass(frozen=True, eq=False)
class Source:
    """A model that examples are made on.

    Attributes:
        name: of its run, in labels.
        model: from pixels to logits, with the final weights of the run.
        network: what decides its logits besides its weights.
        told: what a results file says of it.
    """

    name: str
    model: nn.Module
    network: dict[str, Any]
    told: dict[str, Any]


def read_sources(
    target: Path, config: RunConfig, test: Dataset, runs: Sequence[Path], device: torch.device, trust_code: bool
) -> list[Source]:
    """Return the models of runs; all are checked before code of any of them runs.

    Args:
        target: directory of the run that is attacked, absolute.
        config: of that run.
        test: its test set.
        runs: directories of the others, absolute.
        device: where the models go.
        trust_code: run code of the runs that has not been run on this machine before.

    Raises:
        FedShieldError: a run is named twice, is damaged or has no finished round, is of other data, classes, image
            size, norm or epsilon, or its code is not trusted; or no attack has a budget.
    """
    if runs:
        _check_attacks(config.final_attacks(len(test.classes)))
    seen = {target.resolve()}
    for run in runs:
        if run.resolve() in seen:
            raise FedShieldError(f"{run}: named twice; examples are made on other runs than the one that is attacked")
        seen.add(run.resolve())
        _check_same(target, config, test, run)
    configs = [stored_config(run, {}, "options", trust_code, _RUNS) for run in runs]
    names = names_of([target, *runs])[1:]
    sources = [_read(run, name, own, device) for run, name, own in zip(runs, names, configs, strict=True)]
    own = (selected_checkpoint(target) or {}).get("sha256")
    for source in sources:
        if source.told["sha256"] == own and source.network == _network(config):
            log.warning(
                "warning: %s and %s have the same model: what is made on one is made on the other, so this is no "
                "transfer attack",
                *(target.name, source.name),
            )
    return sources


def _network(config: RunConfig) -> dict[str, Any]:
    """Return what decides a model's logits besides its weights."""
    return config.model.model_dump() | {"name": user_code_digest(config.model.name)}


def _read(run: Path, name: str, config: RunConfig, device: torch.device) -> Source:
    number, state = selected_model(run)
    check_user_code(config, _RUNS)
    model = make_model(config, len(read_classes(run))).to(device)
    fit_state(model, state, run)
    digest = (selected_checkpoint(run) or {})["sha256"]
    return Source(name, model, _network(config), {"name": name, "round": number, "sha256": digest})


def _check_attacks(attacks: Sequence[str]) -> None:
    if not (moving := can_transfer(attacks)):
        raise FedShieldError(
            f"{', '.join(attacks) or 'no attack'}: has no budget, so there are no examples to try on another model; "
            "name an attack that has, such as pgd-20"
        )
    if alone := [label for label in attacks if label not in moving]:
        log.info("%s: on the attacked model alone, since it has no budget", ", ".join(alone))


def _check_same(target: Path, config: RunConfig, test: Dataset, run: Path) -> None:
    """Check that examples of a run are within the threat of another, and of its images."""
    other, classes = parse_stored(run, read_config(run)), read_classes(run)
    own = parse_stored(target, read_config(target)).attack  # whatever it is measured in now
    tests = read_described_partition(run).get("test") or class_counts(test)  # earlier versions did not count them
    parts: list[tuple[str, object, object]] = [
        ("image size", f"{other.data.side} pixels", f"{config.data.side} pixels"),
        ("data.name", other.data.name, config.data.name),
        ("attack.norm", other.attack.norm, own.norm),
        ("attack.epsilon-255", other.attack.epsilon_255, own.epsilon_255),
        ("number of classes", len(classes), len(test.classes)),
        *((f"class {number}", *both) for number, both in enumerate(zip(classes, test.classes, strict=False))),
        ("number of test images", sum(tests), len(test.labels)),
        ("number of test images of each class", tests, class_counts(test)),
    ]
    for what, there, here in parts:
        if there != here:
            raise FedShieldError(
                f"{run}: its {what} is {there}, and that of {target} is {here}; examples can be tried only on a run of "
                "the same data, classes, image size, norm and epsilon"
            )
