"""Evaluates a run's model on test images: after each round, at the end, and whenever ``fedshield evaluate`` asks."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.attacks.threat import AttackSpec, Threat
from common.config.flat import Flat
from common.config.schema import RunConfig
from common.data.datasets import Dataset, balanced_subset, is_at_hand
from common.data.rare_classes import told_uneven_draw
from common.data.server_data import class_counts
from common.errors import FedShieldError
from common.evaluation.confidence import answer, calibration_of
from common.evaluation.corrupted import evaluate_corrupted
from common.evaluation.evaluate import Evaluation, evaluate
from common.evaluation.examples import attack_examples
from common.evaluation.model_checks import EOT, is_randomized
from common.evaluation.sanity_checks import find_curve_warnings, find_warnings
from common.evaluation.store import ArrayStore, digest_of
from common.factory import check_user_code, evaluation_threat, make_model, prepare_torch, test_data
from common.files import append_json_line
from common.paths import sources_digest
from common.seeding import seed_for
from common.user_code import is_user_code, user_code_digest
from server.preflight import tell_idle_cores
from server.run_directory.checkpoint import fit_state, selected_model
from server.run_directory.reader import FEDERATION, read_described_partition, read_kind
from server.run_directory.restored import stored_config

log = logging.getLogger("fedshield")

_BATCH = 500
_CURVE = AttackSpec("pgd", 20)
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
    subset = _subset(test, examples)
    threat, eot = evaluation_threat(config), passes_to_average(model, subset.images, config)
    return evaluate(model, subset.images, subset.labels, attacks, threat, _seed(config), _BATCH, eot=eot)


def passes_to_average(model: torch.nn.Module, images: NDArray[np.uint8], config: RunConfig) -> int:
    """Return ``eot`` of ``evaluate``: what the configuration says, or what the model needs.

    In eval mode, the networks of FedShield and torchvision draw nothing, so only a user's own is looked at.

    Args:
        model: to evaluate.
        images: uint8 [N,3,H,W], N >= 1.
        config: of the run.
    """
    if config.evaluate.eot or not is_user_code(config.model.name):
        return config.evaluate.eot or 1
    return EOT if is_randomized(model, images, _seed(config)) else 1


def evaluate_finally(
    model: torch.nn.Module, test: Dataset, config: RunConfig, counts: NDArray[np.int64] | None, kept_dir: Path | None
) -> tuple[Evaluation, dict[str, Any]]:
    """Evaluate with the final attacks, with full details; warnings about the result are logged.

    Args:
        model: to evaluate.
        test: the test set.
        config: of the run.
        counts: training images of each class at each client, [clients, classes]; None where there are no clients.
        kept_dir: the run's ``evaluations``, where an interrupted evaluation goes on; None to keep nothing.

    Returns:
        The figures, and all that a results file should say of them.
    """
    subset, threat, seed = _subset(test, config.evaluate.final_examples), evaluation_threat(config), _seed(config)
    arguments = model, subset.images, subset.labels
    attacks, eot = config.final_attacks(len(test.classes)), passes_to_average(model, subset.images, config)
    kept = _kept(kept_dir, model, subset, config, threat, eot)
    evaluation = evaluate(*arguments, attacks, threat, seed, _BATCH, kept, eot)
    warnings = find_warnings(*arguments, evaluation, threat, seed, eot)
    figures = evaluation.as_json(details=True, shares=counts)
    torch.manual_seed(seed_for(seed, "confidence"))  # of a randomized model
    calibration = calibration_of(answer(model, subset.images, _BATCH), subset.labels)
    figures |= {"classes": list(test.classes), "calibration": calibration, "warnings": _tell(warnings)}
    if kept_dir is not None:
        shown = attack_examples(*arguments, evaluation, threat, seed, eot)
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
) -> RunEvaluation:
    """Evaluate a run's model with its final attacks, and append the result to its ``evaluations.jsonl``.

    What was measured before, by a command that was interrupted or that named fewer attacks, is not measured again.

    Args:
        run_dir: absolute.
        changes: keys of the stored configuration to change, such as ``evaluate.final-attacks``.
        epsilons: radii of the curve of robust accuracy, in 1/255; none for no curve.
        trust_code: run code of the run's that has not been run on this machine before.
        corruptions: kinds of ``common.evaluation.corruptions`` under which accuracy is measured too; none for none.

    Raises:
        FedShieldError: the run is damaged or has no finished round, its data is not there, or its code is not trusted.
    """
    config = stored_config(run_dir, changes, "options", trust_code, _RUNS)
    data = config.data
    if "data.root" not in changes and not is_at_hand(data.name, data.root, data.image_size):
        # Whoever has made the run may have named any folder of this machine.
        raise FedShieldError(
            f"{run_dir / 'config.json'}: data.root = {data.root}: {data.name} is not there; give its place, or where "
            "to download it to, with --set data.root=DIR"
        )
    round_or_epoch, state = selected_model(run_dir)
    check_user_code(config, _RUNS)
    tell_idle_cores(config)
    device = prepare_torch(config.threads)
    test = test_data(config)
    examples = config.evaluate.final_examples
    if line := told_uneven_draw("evaluate.final-examples", examples, class_counts(test), test.classes):
        log.info("%s", line)
    counts = _counts(run_dir, test)
    model = make_model(config, len(test.classes)).to(device)
    fit_state(model, state, run_dir)
    kept_dir = run_dir / "evaluations"
    evaluation, figures = evaluate_finally(model, test, config, counts, kept_dir)
    if epsilons:
        figures["curve"], warnings = _curve(model, test, config, epsilons, kept_dir)
        figures["warnings"] += _tell(warnings)
    if corruptions:
        figures["corruptions"] = _corrupted(model, test, config, corruptions, kept_dir)
    record = {
        "at": datetime.now().isoformat(timespec="seconds"),
        "round": round_or_epoch,
        "epsilon-255": config.attack.epsilon_255,
        **figures,
    }
    append_json_line(run_dir / "evaluations.jsonl", record)
    return RunEvaluation(round_or_epoch, config, evaluation, record, len(test.labels))


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


def _curve(
    model: torch.nn.Module, test: Dataset, config: RunConfig, epsilons: Sequence[float], kept_dir: Path | None
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return robust accuracy at each epsilon, under the first PGD of the final attacks, and warnings about it."""
    subset = _subset(test, config.evaluate.final_examples)
    eot = passes_to_average(model, subset.images, config)
    specs = map(AttackSpec.parse, config.final_attacks(len(test.classes)))
    attack = next((spec for spec in specs if spec.name == "pgd"), _CURVE)
    label = str(attack)
    points, robust = [], {}
    for epsilon in epsilons:
        threat = Threat.reaching(epsilon / 255, attack.steps)
        kept = _kept(kept_dir, model, subset, config, threat, eot)
        found = evaluate(model, subset.images, subset.labels, (label,), threat, _seed(config), _BATCH, kept, eot)
        points.append({"epsilon-255": epsilon, "attack": label, **found.robust[label].as_json()})
        robust[epsilon] = found.masks()[label]
    return points, find_curve_warnings(robust, subset.labels)


def _corrupted(
    model: torch.nn.Module, test: Dataset, config: RunConfig, kinds: Sequence[str], kept_dir: Path
) -> dict[str, Any]:
    """Return accuracy under corruptions, on the images of the final attacks."""
    subset = _subset(test, config.evaluate.final_examples)
    made = sources_digest("common/evaluation/corruptions.py", "common/evaluation/confidence.py").hex()
    made += "".join(f" {name} {version(name)}" for name in ("numpy", "scipy", "pillow"))
    kept = _kept(kept_dir, model, subset, config, evaluation_threat(config), 1, made)
    return evaluate_corrupted(model, subset.images, subset.labels, kinds, _seed(config), kept).as_json()


def _tell(warnings: Sequence[str]) -> list[str]:
    for warning in warnings:
        log.warning("warning: %s", warning)
    return list(warnings)


def _subset(test: Dataset, examples: int) -> Dataset:
    return test.take(balanced_subset(test.labels, examples, 0, "evaluation"))


def _seed(config: RunConfig) -> int:
    return seed_for(config.seed, "evaluate")


def _kept(
    kept_dir: Path | None,
    model: torch.nn.Module,
    subset: Dataset,
    config: RunConfig,
    threat: Threat,
    eot: int,
    made_by: str = "",
) -> ArrayStore | None:
    """Return the folder of everything that decides the figures, or None where nothing is kept."""
    if kept_dir is None:
        return None
    weights = {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
    device = next(model.parameters()).device.type, torch.get_num_threads()  # which decide the last bits
    network = config.model.model_dump() | {"name": user_code_digest(config.model.name)}
    decided: tuple[object, ...] = network, threat.epsilon, threat.step, _seed(config), _BATCH, eot, *device
    decided += (made_by,) if made_by else ()
    return ArrayStore(kept_dir / digest_of(decided, {**weights, "/images": subset.images, "/labels": subset.labels}))
