"""Measures natural and robust accuracy, attack by attack; an example is attacked only until an attack breaks it."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.attacks.library import AUTOATTACK, OF_EVALUATION, Attack, attack_mode, build_attack
from common.attacks.threat import AttackSpec, Minimal, Threat
from common.errors import DeadEndError
from common.evaluation.results import Distortion, Evaluation, Rate
from common.evaluation.store import ArrayStore
from common.seeding import seed_for
from common.statistics import Mask
from common.training.trainer import pixels
from common.user_code import is_user_code, user_code_digest

__all__ = ["BATCH", "Distortion", "Evaluation", "Rate", "evaluate", "needs_gradient", "passes", "probe"]

log = logging.getLogger("fedshield")

BATCH = 500  # images at a time: with another number, attacks draw other random starts
_SILENCE = 30.0  # seconds after which a long evaluation logs its progress
_GRADIENT_FREE = "square"


def evaluate(
    model: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    attacks: Sequence[str],
    threat: Threat,
    seed: int,
    batch_size: int = BATCH,
    kept: ArrayStore | None = None,
    eot: int = 1,
    made_on: nn.Module | None = None,
) -> Evaluation:
    """Measure ``model`` in eval mode and float32; every module keeps its mode.

    An adversary who cannot do better leaves the image as it is. So an attack is run only on the images that are
    classified correctly, and an example counts as robust when both versions are. Each attack is measured separately, on
    all those images; its restarts, and the parts of AutoAttack, only on the images that the ones before did not break.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    >>> images = np.random.default_rng(1).integers(0, 256, (20, 3, 8, 8), np.uint8)
    >>> labels = np.arange(20) % 10
    >>> found = evaluate(model, images, labels, ["fgsm", "pgd-5x2"], Threat.from_255(epsilon=8, step=2), seed=1)
    >>> list(found.robust)
    ['fgsm', 'pgd-5x2']
    >>> found.worst.value <= found.natural.value
    True

    Args:
        model: from pixels [B,3,H,W] in [0, 1] to logits [B,classes].
        images: uint8 [N,3,H,W], N >= 1.
        labels: int64 [N], in [0, classes).
        attacks: labels as in ``AttackSpec.parse``: ``fgsm``, ``pgd-20x5``, ``autoattack``, ``deepfool``.
        threat: epsilon and step size of all of them; at epsilon 0 the robust accuracies are the natural one.
        seed: fixes the random starts, >= 0.
        batch_size: images at a time, >= 1; a repeated evaluation must use the same one.
        kept: where to keep what is measured, batch by batch, and to look for it first. It must belong to exactly this
            model, data, threat, seed, batch size, ``eot`` and ``made_on``.
        eot: forward passes whose mean logits FedShield's attacks see, >= 1; for a randomized model. Each prediction
            is that of one further pass.
        made_on: another model with the same inputs and classes, which the attacks see instead of ``model``: their
            examples are made there, and tried on ``model``. None for attacks that see ``model`` itself.

    Raises:
        FedShieldError: an attack needs a gradient that the model does not have, or more classes, or a user's attack
            fails.
        ValueError: as in ``AttackSpec.parse``.
    """
    specs = {label: AttackSpec.parse(label) for label in attacks}
    seen = model if made_on is None else made_on
    classes, differentiable = probe(seen, images)
    for label in attacks if not differentiable else ():
        if needs_gradient(label):
            raise DeadEndError(
                f"{label} cannot run: the model's output has no gradient with respect to its input; "
                f"measure it with {_GRADIENT_FREE}"
            )
    with attack_mode(model):
        work = _Work(model, seen, images, labels, threat, classes, seed, batch_size, kept, eot)
        natural = work.measure("natural")["predictions"]
        predictions = {"natural": natural}
        distortions: dict[str, Distortion] = {}
        parts: dict[str, Rate] = {}
        for label, spec in specs.items():
            if isinstance(spec.family, Minimal):
                found = work.measure(label, natural == labels, spec)
                distortions[label] = _distortion(found, labels, natural)
            else:
                predictions[label], survivors = _bounded(work, spec, natural)
                parts |= survivors if label == "autoattack" else {}
    return Evaluation(labels, predictions, classes, distortions, parts, not_finite=work.not_finite)


def needs_gradient(label: str) -> bool:
    """Return whether an attack needs the gradient of the model that it sees; what a user's own needs, nobody knows."""
    name = AttackSpec.parse(label).name
    return name != _GRADIENT_FREE and not is_user_code(name)


def probe(model: nn.Module, images: NDArray[np.uint8]) -> tuple[int, bool]:
    """Return the number of classes, and whether a gradient comes back from the logits to the pixels."""
    inputs = pixels(images[:1], next(model.parameters()).device).requires_grad_()
    with attack_mode(model):
        logits = model(inputs)
    if not logits.requires_grad:
        return logits.shape[1], False
    return logits.shape[1], torch.autograd.grad(logits.sum(), inputs, allow_unused=True)[0] is not None


def _bounded(work: "_Work", spec: AttackSpec, natural: NDArray[np.int16]) -> tuple[NDArray[np.int16], dict[str, Rate]]:
    """Return the predictions under an attack within the budget, and how many survive each of its passes."""
    predictions, alive = natural.copy(), natural == work.labels
    survivors: dict[str, Rate] = {}
    for name, attack, restart in passes(spec):
        if work.threat.epsilon > 0:
            found = work.measure(name, alive, attack, restart)["predictions"]
            predictions[alive] = found[alive]
            alive = predictions == work.labels
        survivors[str(attack)] = Rate(int(alive.sum()), len(alive))
    return predictions, survivors


def passes(spec: AttackSpec) -> Iterator[tuple[str, AttackSpec, int]]:
    """Yield for each pass of an attack the name of its results, what is run once and the number of the restart.

    The first pass of ``pgd-20x5`` is ``pgd-20`` itself, and that of ``autoattack`` is ``apgd-ce``: with the same seed,
    and with results that are kept for both.
    """
    if spec.name == "autoattack":
        for part in AUTOATTACK:
            yield part if part == AUTOATTACK[0] else f"autoattack.{part}", AttackSpec(part), 0
        return
    once = replace(spec, restarts=1)
    yield str(once), once, 0
    yield from ((f"{once}.restart-{restart}", once, restart) for restart in range(1, spec.restarts))


def _distortion(found: dict[str, NDArray[Any]], labels: NDArray[np.int64], natural: NDArray[np.int16]) -> Distortion:
    correct: Mask = natural == labels
    return Distortion(correct, correct & (found["predictions"] != labels), found["l2"], found["linf"])


class _Work:
    """The passes of one evaluation; the arguments are those of ``evaluate``, and ``seen``, which the attacks see."""

    def __init__(
        self,
        model: nn.Module,
        seen: nn.Module,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        threat: Threat,
        classes: int,
        seed: int,
        batch_size: int,
        kept: ArrayStore | None,
        eot: int,
    ) -> None:
        self.model = model
        self.seen = seen
        self.images = images
        self.labels = labels
        self.threat = threat
        self.classes = classes
        self.seed = seed
        self.batch_size = batch_size
        self.kept = kept
        self.eot = eot
        self.not_finite = 0  # answers so far
        self._device = next(model.parameters()).device
        self._spoke = time.monotonic()

    def measure(
        self, name: str, rows: Mask | None = None, spec: AttackSpec | None = None, restart: int = 0
    ) -> dict[str, NDArray[Any]]:
        """Run one pass of an attack, or continue it.

        Args:
            name: of the pass; its results are kept under it.
            rows: bool [N], the examples to attack; all if not given.
            spec: the attack; none if not given.
            restart: which random start, from 0.

        Returns:
            ``predictions`` int16 [N] (the true class where no attack was run), ``l2`` and ``linf`` float32 [N].
        """
        count, threat = len(self.labels), spec.within(self.threat) if spec else self.threat
        attack = spec.name if spec else "none"
        run = build_attack(attack, self.seen, threat, self.classes, OF_EVALUATION, eot=self.eot)
        place = f"{name}.{user_code_digest(attack)}" if is_user_code(attack) else name  # as the file is now
        fresh = {
            "done": np.array(0),
            "predictions": self.labels.astype(np.int16),
            "l2": np.zeros(count, np.float32),
            "linf": np.zeros(count, np.float32),
        }
        found = (self.kept and self.kept.load(place, fits=partial(_goes_on, fresh, self.classes))) or fresh
        for start in range(int(found["done"]), count, self.batch_size):
            end = min(start + self.batch_size, count)
            chosen = np.arange(start, end) if rows is None else start + np.flatnonzero(rows[start:end])
            if len(chosen):
                torch.manual_seed(seed_for(self.seed, str(spec or name), start, *([restart] if restart else [])))
                self._attack(run, chosen, found)
            found["done"] = np.array(end)
            if self.kept:
                self.kept.save(place, found)
            self._speak(name, end)
        return found

    def _attack(self, run: Attack, rows: NDArray[np.int64], found: dict[str, NDArray[Any]]) -> None:
        """Attack one batch and store the result in ``found``."""
        inputs = pixels(self.images[rows], self._device)
        adversarial = run(inputs, torch.from_numpy(self.labels[rows]).to(self._device))
        change = (adversarial - inputs).flatten(1)
        logits = _answer(self.model, adversarial)
        found["predictions"][rows] = logits.argmax(1).cpu().numpy()
        self.not_finite += int((~logits.isfinite()).any(1).sum())
        found["l2"][rows] = change.norm(dim=1).cpu().numpy()
        found["linf"][rows] = change.abs().amax(1).cpu().numpy()

    def _speak(self, name: str, done: int) -> None:
        if time.monotonic() - self._spoke > _SILENCE:
            self._spoke = time.monotonic()
            log.info("evaluating: %s, %d of %d images", name, done, len(self.labels))


def _goes_on(fresh: Mapping[str, NDArray[Any]], classes: int, found: Mapping[str, NDArray[Any]]) -> bool:
    """Return whether these are results of an interrupted pass of this evaluation."""
    same = all(found[name].shape == array.shape and found[name].dtype == array.dtype for name, array in fresh.items())
    known = np.isin(found["predictions"], range(classes)).all()
    finite = np.isfinite(found["l2"]).all() and np.isfinite(found["linf"]).all()
    return bool(same and known and finite and found["done"] >= 0)


def _answer(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(inputs)
    return logits
