"""Measures a model on held-out images after each round, in a few seconds, without a trace in the run."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import nn
from torch.nn import functional as F  # noqa: N812

from common.attacks.library import attack_mode
from common.attacks.threat import Threat
from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.evaluation.curve_checks import chance_of, large_radius, only
from common.evaluation.evaluate import BATCH, Evaluation, evaluate
from common.evaluation.evaluate import probe as look_at
from common.evaluation.sanity_checks import count_zero_gradients, logit_gap
from common.factory import threat_of
from common.messages.records import State, to_state
from common.models.networks import load_state
from common.seeding import seed_for
from common.training.trainer import pixels
from server.diagnosis.about import training_label
from server.measures import passes_to_average

_STEPS = 10
_LONGER = f"pgd-{_STEPS}"


class Probe:
    """Looks at the run's network as it is; the numbers that attacks draw are the probe's own, the same in each round.

    Args:
        config: of the run.
        model: its network, on the device; others put the weights of each round into it.
        images: held out, one or more.
    """

    def __init__(self, config: RunConfig, model: nn.Module, images: Dataset) -> None:
        self._config, self._model, self._held = config, model, images
        self._seed = seed_for(config.seed, "diagnosis")
        attack = config.attack
        with _own_numbers(model):
            self._attacked = attack.epsilon_255 > 0 and look_at(model, images.images)[1]
        self._threat = Threat.reaching(attack.epsilon_255 / 255, _STEPS, attack.norm)

    def signals(self) -> dict[str, Any]:
        """Return what is measured, as numbers for ``metrics.jsonl``; accuracies in [0, 1], classes by their counts."""
        held, model = self._held, self._model
        with _own_numbers(model):
            eot = passes_to_average(model, held.images, self._config)
            seen = self._evaluate(("fgsm", _LONGER) if self._attacked else (), self._threat, held, eot)
            masks = seen.masks()
            found = {"n": seen.n, "natural": seen.natural.value, **self._by_class(seen), **_most_predicted(seen)}
            if self._attacked:
                found |= {"fgsm": seen.robust["fgsm"].value, "pgd": seen.robust[_LONGER].value}
                if label := training_label(self._config):
                    trained = self._evaluate((label,), threat_of(self._config), held, eot)
                    found["training-attack"] = trained.robust[label].value
                found["gradients"] = self._gradients(masks, eot)
        return found

    def descent(self, arrays: ArrayRecord) -> State:
        """Return where the loss on the held-out images falls fastest from a model: minus the gradient of each weight.

        FLTrust (Cao et al. 2021, arXiv 2012.13995) trains on such images as long as a client does; this is the first
        step of that, on all of them, without an attack.
        """
        load_state(self._model, to_state(arrays))
        device = next(self._model.parameters()).device
        named = {name: weight for name, weight in self._model.named_parameters() if weight.requires_grad}
        weights = dict(self._model.named_parameters(remove_duplicate=False))
        down = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        count = len(self._held.labels)
        with _own_numbers(self._model), attack_mode(self._model), torch.enable_grad():
            for start in range(0, count, BATCH):
                some = self._held.take(np.arange(start, min(start + BATCH, count)))
                logits = self._model(pixels(some.images, device))
                loss = F.cross_entropy(logits, torch.from_numpy(some.labels).to(device)) * (len(some.labels) / count)
                slopes = torch.autograd.grad(loss, [*named.values()], allow_unused=True)
                for name, slope in zip(named, slopes, strict=True):
                    if slope is not None:
                        down[name] -= slope
        return {name: array.cpu() for name, array in down.items()}

    def _evaluate(self, attacks: tuple[str, ...], threat: Threat, held: Dataset, eot: int) -> Evaluation:
        return evaluate(self._model, held.images, held.labels, attacks, threat, self._seed, BATCH, eot=eot)

    def _by_class(self, seen: Evaluation) -> dict[str, Any]:
        """Return how many images of each class there are, and how many of them are correct."""

        def counts(rows: Any) -> list[int]:
            return [int(count) for count in np.bincount(rows, minlength=seen.classes)]

        labels, masks = self._held.labels, seen.masks()
        robust = {"class-pgd": counts(labels[masks[_LONGER]])} if self._attacked else {}
        return {"class-examples": counts(labels), "class-natural": counts(labels[masks["natural"]]), **robust}

    def _gradients(self, masks: dict[str, Any], eot: int) -> dict[str, Any]:
        """Return the counts that tell masked gradients; see ``server.diagnosis.masked_gradients``."""
        held, model, threat = self._held, self._model, self._threat
        right, survivors = np.flatnonzero(masks["natural"]), np.flatnonzero(masks[_LONGER])
        epsilon = max(large_radius(threat.norm, held.images[0].size), threat.epsilon)
        large = Threat.reaching(epsilon, _STEPS, threat.norm)
        left = 0
        if len(survivors):  # what a small budget breaks, a large one breaks too
            left = self._evaluate((_LONGER,), large, held.take(survivors), eot).robust[_LONGER].correct
        some = held.take(right)
        gap = logit_gap(model, some.images) if len(right) else None
        return {
            "correct": len(right),
            "zero": count_zero_gradients(model, some.images, some.labels) if len(right) else 0,
            "one-step": list(only(masks["fgsm"], masks[_LONGER])),
            "large-budget": left,
            "chance": chance_of(held.labels),
            "logit-gap": gap if gap is not None and math.isfinite(gap) else None,
        }


def _most_predicted(seen: Evaluation) -> dict[str, Any]:
    counts = np.bincount(seen.predictions["natural"], minlength=seen.classes)
    number = int(counts.argmax())
    shares = {"share": int(counts[number]) / seen.n, "true-share": float((seen.labels == number).mean())}
    return {"most-predicted": {"class": number, **shares}}


@contextmanager
def _own_numbers(model: nn.Module) -> Iterator[None]:
    """Leave the global random generators as they were."""
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
