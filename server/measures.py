"""What an evaluation measures beside the attacks on the model itself, and what decides each figure.

That is robust accuracy over epsilon, accuracy under corruptions, and accuracy on examples of other models.
"""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.attacks.threat import AttackSpec, Threat
from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.data.draws import balanced_subset
from common.data.trigger import TARGET, stamp
from common.evaluation.confidence import answer
from common.evaluation.corrupted import evaluate_corrupted
from common.evaluation.curve_checks import find_curve_warnings
from common.evaluation.evaluate import BATCH, Evaluation, evaluate
from common.evaluation.model_checks import EOT, is_randomized
from common.evaluation.results import Rate
from common.evaluation.store import ArrayStore, digest_of
from common.evaluation.transfer import can_see, can_transfer
from common.factory import evaluation_threat
from common.paths import sources_digest
from common.seeding import seed_for
from common.user_code import is_user_code, user_code_digest
from server.sources import Source

log = logging.getLogger("fedshield")

_CURVE = AttackSpec("pgd", 20)


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
    return EOT if is_randomized(model, images, seed_of(config)) else 1


def transferred(
    source: Source,
    model: torch.nn.Module,
    subset: Dataset,
    config: RunConfig,
    attacks: Sequence[str],
    kept_dir: Path | None,
) -> Evaluation:
    """Evaluate ``model`` on examples that are made on another one, for which a randomized one may need more passes.

    Args:
        source: that other model.
        model: to evaluate.
        subset: the test images, from ``subset_of``.
        config: of the run.
        attacks: their names; those that cannot make examples for another model are left out.
        kept_dir: the run's ``evaluations``; None to keep nothing.
    """
    log.info("making examples on the model of %s", source.name)
    threat, eot = evaluation_threat(config), passes_to_average(source.model, subset.images, config)
    moving = can_transfer(attacks)
    able = can_see(source.model, subset.images, moving)
    if unable := [label for label in moving if label not in able]:
        log.info("%s: not made on %s, whose model gives no gradient", ", ".join(unable), source.name)
    kept = kept_for(kept_dir, model, subset, config, threat, eot, source=source)
    arguments = able, threat, seed_of(config), BATCH, kept, eot, source.model
    return evaluate(model, subset.images, subset.labels, *arguments)


def curve_over_epsilon(
    model: torch.nn.Module, test: Dataset, config: RunConfig, epsilons: Sequence[float], kept_dir: Path | None
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return robust accuracy at each epsilon, under the first PGD of the final attacks, and warnings about it.

    Args:
        model: to evaluate.
        test: the test set.
        config: of the run.
        epsilons: radii in 1/255, in the norm of the threat.
        kept_dir: the run's ``evaluations``; None to keep nothing.
    """
    subset = subset_of(test, config.evaluate.final_examples)
    eot = passes_to_average(model, subset.images, config)
    specs = map(AttackSpec.parse, config.final_attacks(len(test.classes)))
    attack = next((spec for spec in specs if spec.name == "pgd"), _CURVE)
    label = str(attack)
    points, robust = [], {}
    for epsilon in epsilons:
        threat = Threat.reaching(epsilon / 255, attack.steps, config.attack.norm)
        kept = kept_for(kept_dir, model, subset, config, threat, eot)
        found = evaluate(model, subset.images, subset.labels, (label,), threat, seed_of(config), BATCH, kept, eot)
        points.append({"epsilon-255": epsilon, "attack": label, **found.robust[label].as_json()})
        robust[epsilon] = found.masks()[label]
    return points, find_curve_warnings(robust, subset.labels, config.attack.norm, subset.images[0].size)


def corrupted(
    model: torch.nn.Module, test: Dataset, config: RunConfig, kinds: Sequence[str], kept_dir: Path
) -> dict[str, Any]:
    """Return accuracy under corruptions, on the images of the final attacks.

    Args:
        model: to evaluate.
        test: the test set.
        config: of the run.
        kinds: of ``common.evaluation.corruptions``.
        kept_dir: the run's ``evaluations``.
    """
    subset = subset_of(test, config.evaluate.final_examples)
    made = sources_digest("common/evaluation/corruptions.py", "common/evaluation/confidence.py").hex()
    made += "".join(f" {name} {version(name)}" for name in ("numpy", "scipy", "pillow"))
    kept = kept_for(kept_dir, model, subset, config, evaluation_threat(config), 1, made)
    return evaluate_corrupted(model, subset.images, subset.labels, kinds, seed_of(config), kept).as_json()


def backdoor(model: torch.nn.Module, subset: Dataset, config: RunConfig) -> dict[str, Any]:
    """Return how often the trigger of ``byzantine.attack = backdoor`` turns an image of another class into its class.

    Args:
        model: to evaluate.
        subset: the test images.
        config: of the run.

    Returns:
        The ``target`` class, the rates of its being predicted ``with`` and ``without`` the trigger, and their ``n``.
    """
    others = subset.images[subset.labels != TARGET]
    figures: dict[str, Any] = {"target": subset.classes[TARGET], "n": len(others)}
    for name, images in (("without", others), ("with", stamp(others))):
        torch.manual_seed(seed_for(seed_of(config), "backdoor"))  # of a randomized model
        hit = answer(model, images, BATCH).predictions == TARGET
        figures[name] = Rate(int(hit.sum()), len(hit)).as_json()
    return figures


def subset_of(test: Dataset, examples: int) -> Dataset:
    """Return this many test images (0: all), balanced over the classes: the same for every seed and every run."""
    return test.take(balanced_subset(test.labels, examples, 0, "evaluation"))


def seed_of(config: RunConfig) -> int:
    """Return the seed of a run's evaluations."""
    return seed_for(config.seed, "evaluate")


def kept_for(
    kept_dir: Path | None,
    model: torch.nn.Module,
    subset: Dataset,
    config: RunConfig,
    threat: Threat,
    eot: int,
    *made_by: str,
    source: Source | None = None,
) -> ArrayStore | None:
    """Return the folder of everything that decides the figures, or None where nothing is kept.

    Args:
        kept_dir: the run's ``evaluations``.
        model: that is evaluated.
        subset: the test images.
        config: of the run.
        threat: of the attacks.
        eot: passes of the model that an attack averages.
        made_by: what else decides the figures.
        source: the model that examples are made on, where it is another one.
    """
    if kept_dir is None:
        return None
    weights = _arrays(model, "")
    device = next(model.parameters()).device.type, torch.get_num_threads()  # which decide the last bits
    network = config.model.model_dump() | {"name": user_code_digest(config.model.name)}
    decided: tuple[object, ...] = network, threat.norm, threat.epsilon, threat.step, seed_of(config), BATCH, eot
    decided += (*device, *made_by)
    if source is not None:
        decided, weights = (*decided, source.network), {**weights, **_arrays(source.model, "/from/")}
    return ArrayStore(kept_dir / digest_of(decided, {**weights, "/images": subset.images, "/labels": subset.labels}))


def _arrays(model: torch.nn.Module, prefix: str) -> dict[str, NDArray[Any]]:
    return {f"{prefix}{name}": tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
