"""Evaluates a run's model on test images: after each round, at the end, and whenever ``fedshield evaluate`` asks."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.attacks.threat import LINF, doubted_radius
from common.config.flat import Flat
from common.config.schema import RunConfig
from common.data.datasets import Dataset, is_at_hand
from common.data.rare_classes import told_uneven_draw
from common.data.server_data import class_counts
from common.data.trigger import TARGET
from common.errors import FedShieldError
from common.evaluation.confidence import answer, calibration_of
from common.evaluation.evaluate import BATCH, Evaluation, evaluate
from common.evaluation.examples import attack_examples
from common.evaluation.sanity_checks import find_warnings
from common.evaluation.store import ArrayStore, digest_of
from common.evaluation.transfer import can_see, find_transfer_warnings, with_transferred
from common.factory import check_user_code, evaluation_threat, make_model, prepare_torch, test_data
from common.files import append_json_line
from common.seeding import seed_for
from server.measures import (
    backdoor,
    corrupted,
    curve_over_epsilon,
    kept_for,
    passes_to_average,
    seed_of,
    subset_of,
    transferred,
)
from server.notices import tell_idle_cores, tell_small_radius
from server.personal import evaluate_personal, require_personal
from server.preflight import check_reach
from server.run_directory.checkpoint import fit_state, selected_model
from server.run_directory.lock import measured
from server.run_directory.reader import FEDERATION, read_described_partition, read_kind
from server.run_directory.restored import stored_config
from server.sources import Source, read_sources

log = logging.getLogger("fedshield")

_RUNS = ("model.name", "evaluate.final-attacks")  # the keys whose user's code an evaluation runs


@dataclass(frozen=True)
class RunEvaluation:
    """What ``evaluate_run`` found.

    Attributes:
        round: of the checkpoint.
        config: of the run, with the changes.
        evaluation: the figures.
        record: the line that was appended to ``evaluations.jsonl``.
        tests: how many test images there are.
    """

    round: int
    config: RunConfig
    evaluation: Evaluation
    record: dict[str, Any]
    tests: int


@dataclass(frozen=True)
class Prepared:
    """A run's model and what it is measured with; see ``prepare_evaluation``.

    Attributes:
        config: of the run, with the changes.
        round: of the checkpoint.
        model: on the device.
        test: the test images.
        counts: training images of each class at each client, [clients, classes]; None where there are no clients.
        device: of this process.
    """

    config: RunConfig
    round: int
    model: torch.nn.Module
    test: Dataset
    counts: NDArray[np.int64] | None
    device: torch.device


def evaluate_on(
    model: torch.nn.Module, test: Dataset, config: RunConfig, attacks: tuple[str, ...], examples: int
) -> Evaluation:
    """Evaluate on test images that are balanced over the classes: the same ones for every seed and every run.

    Args:
        model: to evaluate.
        test: the test set.
        config: of the run.
        attacks: their names, as in ``evaluate.attacks``; may be none.
        examples: how many images; 0 for all.
    """
    subset = subset_of(test, examples)
    threat, eot = evaluation_threat(config), passes_to_average(model, subset.images, config)
    return evaluate(model, subset.images, subset.labels, attacks, threat, seed_of(config), BATCH, eot=eot)


def evaluate_finally(
    model: torch.nn.Module,
    test: Dataset,
    config: RunConfig,
    counts: NDArray[np.int64] | None,
    kept_dir: Path | None,
    sources: Sequence[Source] = (),
) -> tuple[Evaluation, dict[str, Any]]:
    """Evaluate with the final attacks, with full details; warnings about the result are logged.

    Args:
        model: to evaluate.
        test: the test set.
        config: of the run.
        counts: training images of each class at each client, [clients, classes]; None where there are no clients.
        kept_dir: the run's ``evaluations``, where an interrupted evaluation goes on; None to keep nothing.
        sources: other models, on which the attacks' examples are made too.

    Returns:
        The figures, and all that a results file should say of them.
    """
    subset, threat, seed = subset_of(test, config.evaluate.final_examples), evaluation_threat(config), seed_of(config)
    arguments = model, subset.images, subset.labels
    attacks, eot = config.final_attacks(len(test.classes)), passes_to_average(model, subset.images, config)
    kept = kept_for(kept_dir, model, subset, config, threat, eot)
    own = can_see(model, subset.images, attacks) if sources else attacks
    seeing = evaluate(*arguments, own, threat, seed, BATCH, kept, eot)
    warnings = find_warnings(*arguments, seeing, threat, seed, eot)
    made = {source.name: transferred(source, model, subset, config, attacks, kept_dir) for source in sources}
    evaluation = with_transferred(seeing, made)
    figures = evaluation.as_json(details=True, shares=counts)
    torch.manual_seed(seed_for(seed, "confidence"))  # of a randomized model
    calibration = calibration_of(answer(model, subset.images, BATCH), subset.labels)
    warnings += find_transfer_warnings(seeing, made)
    figures |= {"classes": list(test.classes), "calibration": calibration, "warnings": _tell(warnings)}
    if config.byzantine.clients and config.byzantine.attack == "backdoor" and (subset.labels != TARGET).any():
        figures["backdoor"] = backdoor(model, subset, config)
    if sources:
        figures["from"] = [source.told for source in sources]
    if kept_dir is not None:
        shown = attack_examples(*arguments, seeing, threat, seed, eot)
        of = {"classes": np.array(test.classes), "images": np.array(subset.digest()), "image_ids": subset.image_ids()}
        arrays = {**of, **evaluation.arrays(), **shown}
        figures["predictions"] = f"predictions-{digest_of((), arrays)}"
        ArrayStore(kept_dir).save(figures["predictions"], arrays)
    return evaluation, figures


def evaluate_run(
    run_dir: Path,
    changes: Flat,
    epsilons: Sequence[float] = (),
    trust_code: bool = False,
    corruptions: Sequence[str] = (),
    made_on: Sequence[Path] = (),
    personal: bool = False,
) -> RunEvaluation:
    """Evaluate a run's model with its final attacks, and append the result to its ``evaluations.jsonl``.

    What was measured before, by a command that was interrupted or that named fewer attacks, is not measured again.

    Args:
        run_dir: absolute.
        changes: keys of the stored configuration to change, such as ``evaluate.final-attacks``.
        epsilons: radii of the curve of robust accuracy, in 1/255, in the norm of the threat; none for no curve.
        trust_code: run code of the run's that has not been run on this machine before.
        corruptions: kinds of ``common.evaluation.corruptions`` under which accuracy is measured too; none for none.
        made_on: directories of other runs, absolute; the examples of the attacks are made on their models too.
        personal: measure the clients' own models too.

    Raises:
        FedShieldError: the run is damaged or has no finished round, its data is not there, or its code is not trusted;
            the same of ``made_on``, or these do not fit; or the clients have no models of their own.
    """
    if personal:
        require_personal(run_dir)
    prepared = prepare_evaluation(run_dir, changes, trust_code, epsilons)
    config, model, test = prepared.config, prepared.model, prepared.test
    kept_dir = run_dir / "evaluations"
    with measured(run_dir):
        sources = read_sources(run_dir, config, test, made_on, prepared.device, trust_code)
        evaluation, figures = evaluate_finally(model, test, config, prepared.counts, kept_dir, sources)
        if epsilons:
            figures["curve"], warnings = curve_over_epsilon(model, test, config, epsilons, kept_dir)
            figures["warnings"] += _tell(warnings)
        if personal:
            figures["personal"] = evaluate_personal(run_dir, model, test, config, prepared.counts, evaluation)
        if corruptions:
            figures["corruptions"] = corrupted(model, test, config, corruptions, kept_dir)
        record = {
            "at": datetime.now().isoformat(timespec="seconds"),
            "round": prepared.round,
            "norm": config.attack.norm,
            "epsilon-255": config.attack.epsilon_255,
            **figures,
        }
        append_json_line(run_dir / "evaluations.jsonl", record)
    return RunEvaluation(prepared.round, config, evaluation, record, len(test.labels))


def prepare_evaluation(run_dir: Path, changes: Flat, trust_code: bool, epsilons: Sequence[float] = ()) -> Prepared:
    """Read a run's model and its test images; the arguments and errors are those of ``evaluate_run``."""
    config = stored_config(run_dir, changes, "options", trust_code, _RUNS)
    data = config.data
    if config.attack.norm == LINF and max(epsilons, default=0) > 255:
        raise FedShieldError(f"--epsilons {max(epsilons):g}: 255 is the whole range of a pixel in attack.norm = linf")
    if doubt := doubted_radius("--epsilons", max(epsilons, default=0), config.attack.norm):
        log.warning("warning: %s", doubt)
    check_reach(config, training=False)
    if "data.root" not in changes and not is_at_hand(data.name, data.root, data.image_size, data.resize):
        # Whoever has made the run may have named any folder of this machine.
        raise FedShieldError(
            f"{run_dir / 'config.json'}: data.root = {data.root}: {data.name} is not there; give its place, or where "
            "to download it to, with --set data.root=DIR"
        )
    round_or_epoch, state = selected_model(run_dir)
    check_user_code(config, _RUNS)
    tell_idle_cores(config)
    tell_small_radius(config)
    device = prepare_torch(config.threads)
    test = test_data(config)
    examples = config.evaluate.final_examples
    if line := told_uneven_draw("evaluate.final-examples", examples, class_counts(test), test.classes):
        log.info("%s", line)
    counts = _counts(run_dir, test)
    model = make_model(config, len(test.classes)).to(device)
    fit_state(model, state, run_dir)
    return Prepared(config, round_or_epoch, model, test, counts, device)


def _counts(run_dir: Path, test: Dataset) -> NDArray[np.int64] | None:
    """Return training images of each class at each client, [clients, classes]; None where there are no clients."""
    if not (described := read_described_partition(run_dir)):
        return None
    if tuple(described["classes"]) != test.classes:
        raise FedShieldError(
            f"{run_dir / 'partition.json'}: has other classes than the test images; "
            "give those that the run was trained on, with --set data.root=DIR, or start a new run"
        )
    return np.array(described["clients"], np.int64) if read_kind(run_dir).name == FEDERATION.name else None


def _tell(warnings: Sequence[str]) -> list[str]:
    for warning in warnings:
        log.warning("warning: %s", warning)
    return list(warnings)
