"""``fedshield privacy``: how well an attacker tells a run's training images from images that it never saw."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.attacks.library import Attack, build_attack
from common.attacks.threat import AttackSpec
from common.config.flat import Flat
from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.errors import FedShieldError
from common.evaluation.evaluate import BATCH, probe
from common.evaluation.lira import check_shadows, lira_scores, shadow_halves
from common.evaluation.membership import confidences, figures_of, matched_rows
from common.factory import check_user_code, evaluation_threat, make_federated_method
from common.seeding import rng_for, seed_for
from common.user_code import is_user_code
from server.evaluation import Prepared, prepare_evaluation
from server.measures import passes_to_average
from server.personal import read_personal
from server.run_directory.index import selected_checkpoint
from server.run_directory.lock import measured
from server.run_directory.privacy import write_privacy
from server.run_directory.restored import stored_config
from server.run_images import RunImages, run_images
from server.shadows import Shadows, shadow_plans, tell_cost

log = logging.getLogger("fedshield")

ATTACK = AttackSpec("pgd", 20)  # that makes the examples of Song et al.
_TRAINED_BY = ("model.name", "loss.name", "attack.name")  # the user's code that shadow models need

Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class _Asked:
    """The images that the attacker asks about.

    Attributes:
        rows: of ``RunImages.take``, increasing.
        images: at these rows.
        groups: by group, the places in ``rows`` of members and of others.
    """

    rows: NDArray[np.int64]
    images: Dataset
    groups: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the model shows of those images.

    Attributes:
        scores: by attack, of each image; higher for one that looks like a member.
        right: ``natural`` and, with the attack on images, ``robust``: where the model is right.
        notes: what could not be done.
    """

    scores: Scores
    right: dict[str, NDArray[np.bool_]]
    notes: list[str]


def measure_privacy(
    run_dir: Path, changes: Flat, examples: int = 500, shadows: int = 4, trust_code: bool = False
) -> tuple[dict[str, Any], Path]:
    """Attack a run's model by membership inference, and write the result into its ``privacy.json``.

    The attacks are the loss threshold (Yeom et al. 2018, arXiv 1709.01604), the loss of adversarial examples (Song et
    al. 2019, arXiv 1905.10291) and offline LiRA (Carlini et al. 2022, arXiv 2112.03570). Same seed, same figures.

    Args:
        run_dir: absolute.
        changes: keys of the stored configuration to change, such as ``data.root``.
        examples: images a side in each group, at most; 0 = as many as there are.
        shadows: shadow models of LiRA, an even number; 0 leaves LiRA out.
        trust_code: run code of the run's that has not been run on this machine before.

    Returns:
        What was written, and where.

    Raises:
        FedShieldError: the run is damaged or has no finished round, its images are not there or not the same, its code
            is not trusted, or there is no image to ask about.
    """
    check_shadows(shadows)
    config = stored_config(run_dir, changes, "options", trust_code, _TRAINED_BY if shadows else ("model.name",))
    check_user_code(config, _TRAINED_BY if shadows else ())
    nothing_else: Flat = {"evaluate.final-attacks": "", "evaluate.final-examples": 0}
    prepared = prepare_evaluation(run_dir, {**changes, **nothing_else}, trust_code)
    known = run_images(run_dir, config, prepared.round)
    asked = _choose(run_dir, known, examples, config.seed)
    told = None
    with measured(run_dir):
        with _whose(run_dir):
            seen = _look(prepared, asked)
        if shadows:
            seen.scores["lira"], told = _by_shadows(run_dir, prepared, known, asked, seen, shadows)
        record = {
            "at": datetime.now().isoformat(timespec="seconds"),
            "round": prepared.round,
            "sha256": (selected_checkpoint(run_dir) or {})["sha256"],
            "seed": config.seed,
            "examples": examples,
            "attack": str(ATTACK) if "robust" in seen.right else "",
            "norm": config.attack.norm,
            "epsilon-255": config.attack.epsilon_255,
            "shadows": told,
            "groups": {
                name: _figures(known, name, members, others, seen) for name, (members, others) in asked.groups.items()
            },
            "notes": [*known.notes, *seen.notes, *_of_whose_model(run_dir, config)],
        }
        return record, write_privacy(run_dir, record)


@contextmanager
def _whose(model: object) -> Iterator[None]:
    """Name the model whose answers cannot be used."""
    try:
        yield
    except FedShieldError as error:
        raise FedShieldError(f"{model}: {error}") from error


def _choose(run_dir: Path, known: RunImages, examples: int, seed: int) -> _Asked:
    """Choose members of each group, and as many test images of the same classes."""
    classes, first = len(known.test.classes), len(known.train.labels)
    chosen = {}
    for name, group in known.groups.items():
        members, others = matched_rows(known.train.labels[group.rows], known.test.labels, classes, examples, seed)
        if len(members):
            chosen[name] = group.rows[members], first + others
    if not chosen:
        raise FedShieldError(f"{run_dir}: there is no training image to ask about: {'; '.join(known.notes) or 'none'}")
    rows = np.unique(np.concatenate([side for sides in chosen.values() for side in sides]))
    groups = {name: (np.searchsorted(rows, own), np.searchsorted(rows, new)) for name, (own, new) in chosen.items()}
    return _Asked(rows, known.take(rows), groups)


def _look(prepared: Prepared, asked: _Asked) -> _Seen:
    """Ask the run's model about the images as they are, and about adversarial examples of them."""
    model, images, labels = prepared.model, asked.images.images, asked.images.labels
    natural, right = confidences(model, images, labels, BATCH)
    seen = _Seen({"loss": natural}, {"natural": right}, [])
    attack, note = _attack_on(prepared, images)
    if attack is None:
        seen.notes.append(note)
        return seen
    seed = seed_for(prepared.config.seed, "privacy")
    seen.scores["adversarial-loss"], seen.right["robust"] = confidences(model, images, labels, BATCH, attack, seed)
    return seen


def _attack_on(prepared: Prepared, images: NDArray[np.uint8]) -> tuple[Attack | None, str]:
    """Return the attack that makes the adversarial examples, or why there is none."""
    config, model = prepared.config, prepared.model
    threat = ATTACK.within(evaluation_threat(config))
    if threat.epsilon == 0:
        return None, "attack.epsilon-255 = 0: no adversarial examples were made, and their loss was not looked at"
    classes, differentiable = probe(model, images)
    if not differentiable:
        return None, "the model gives no gradient, so no adversarial examples were made, and their loss not looked at"
    eot = passes_to_average(model, images, config)
    return build_attack(ATTACK.name, model, threat, classes, eot=eot), ""


def _by_shadows(
    run_dir: Path, prepared: Prepared, known: RunImages, asked: _Asked, seen: _Seen, shadows: int
) -> tuple[NDArray[np.float64], dict[str, int]]:
    """Return LiRA's scores, and what a results file says of the shadow models.

    The attacker holds the images that are asked about and others of the same dataset, trained on or not: twice as many
    as the model was trained on, if there are so many, so that each half is as large as what the model was trained on.
    """
    config = prepared.config
    everything = len(known.train.labels) + len(known.test.labels)
    trained = sum(len(group.rows) for group in known.groups.values())
    others = np.setdiff1d(np.arange(everything), asked.rows)
    more = min(len(others), max(0, 2 * trained - len(asked.rows)))
    held = np.union1d(asked.rows, rng_for(config.seed, "attacker").choice(others, more, replace=False))
    halves = shadow_halves(len(held), shadows, config.seed)
    plans = shadow_plans(run_dir, config, prepared.round)
    tell_cost(run_dir, config, shadows, len(held) // 2, plans)
    trainer = Shadows(run_dir, config, shadows, plans, prepared.device)
    found = []
    for number, half in enumerate(halves):
        model = trainer.train(number, known.take(held[half]))
        with _whose(f"{run_dir}: shadow model {number + 1}"):
            found.append(confidences(model, asked.images.images, asked.images.labels, BATCH)[0])
    places = np.searchsorted(held, asked.rows)
    told = {"count": shadows, "images": len(held) // 2, "epochs": sum(plan.epochs for plan in plans)}
    return lira_scores(seen.scores["loss"], np.stack(found), halves[:, places]), told


def _figures(
    known: RunImages, name: str, members: NDArray[np.int64], others: NDArray[np.int64], seen: _Seen
) -> dict[str, Any]:
    """Return what a results file says of one group."""
    attacks = {attack: figures_of(score[members], score[others]) for attack, score in seen.scores.items()}
    sides = {"members": members, "others": others}
    robust = seen.right.get("robust")
    accuracies = {
        side: {
            "natural": float(seen.right["natural"][rows].mean()),
            "robust": None if robust is None else float(robust[rows].mean()),
        }
        for side, rows in sides.items()
    }
    group = known.groups[name]
    worst = max(found["auc"] for found in attacks.values())
    return {
        "what": group.what,
        "images": len(group.rows),
        "n": len(members),
        **accuracies,
        "auc": worst,
        "attacks": attacks,
    }


def _of_whose_model(run_dir: Path, config: RunConfig) -> list[str]:
    """Say it where clients have models of their own: these were not attacked."""
    personal = read_personal(run_dir) is not None
    if not personal and not is_user_code(config.method.name):
        personal = make_federated_method(config).personal
    if not personal:
        return []
    return [
        "the clients have models of their own, which were not attacked: the figures are those of the global model, "
        "which lacks what stays with the clients"
    ]
