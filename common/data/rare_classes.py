"""What happens to rare classes when images are drawn balanced over the classes, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.data.cuts import DescribedPartition
from common.data.draws import class_limits
from common.data.partition import most_of_a_class
from common.words import some

_FEW = 10  # images of a class; a network hardly learns it from fewer
_NAMED = 5  # classes in a line


def told_rare_classes(described: DescribedPartition, config: Mapping[str, Any]) -> list[str]:
    """Say where a limit has spared a class, and where an even draw has made a class much rarer or more common.

    Args:
        described: as in ``partition.json``.
        config: of the run, flat.
    """
    lines: list[str] = []
    if config["data.name"] != "split":  # which was divided with other settings
        lines += _uneven(described, "data.max-examples", "available-by-class", config)
        lines += _spared(described, "validation", "data.validation-fraction", config)
        lines += _spared(described, "pool", "sharing.pool-fraction", config)
    keys = ["evaluate.examples", *(["evaluate.final-examples"] if config["evaluate.final-attacks"] else [])]
    return [*lines, *(line for key in keys for line in _uneven(described, key, "test", config))]


def few_images(described: DescribedPartition, federated: bool) -> str:
    """Say which classes are left with too few images to train on, and what to do; empty where there is none.

    Args:
        described: as in ``partition.json``.
        federated: whether clients have the images.
    """
    counts = _counts(described, "clients")
    few = [place for place, count in enumerate(counts) if count < _FEW]
    if not few:
        return ""
    named = [f"{described['classes'][place]} {counts[place]}" for place in few]
    ways = {
        "lower sharing.pool-fraction": _counts(described, "pool")[few].any(),
        "lower data.validation-fraction": _counts(described, "validation")[few].any(),
        "raise data.max-examples": described.get("used", 0) < described.get("available", 0),
        "add images": True,
    }
    where = " at all clients together" if federated else ""
    helpful = ", or ".join(way for way, helps in ways.items() if helps)
    return f"fewer than {_FEW} training images of a class{where}: {some(named, _NAMED)}; {helpful}"


def told_uneven_draw(key: str, examples: int, counts: Sequence[int], classes: Sequence[str]) -> str:
    """Say where a balanced draw makes a class more than twice as common, or as rare; empty where it does not.

    Args:
        key: of the configuration, which says how many images are drawn.
        examples: that number; 0 for all.
        counts: images of each class that there are.
        classes: their names.
    """
    total = sum(counts)
    if not 0 < examples < total:
        return ""
    changes = [
        f"{name} is {_percent(taken / examples)} of these images and {_percent(count / total)} of all"
        for name, taken, count in zip(classes, _even_draw(counts, examples), counts, strict=True)
        if not 0.5 <= (taken / examples) / (count / total or 1) <= 2 and count
    ]
    return f"{key} = {examples} draws images balanced over the classes: {some(changes, _NAMED)}" if changes else ""


def _uneven(described: DescribedPartition, key: str, there: str, config: Mapping[str, Any]) -> list[str]:
    counts = described.get(there, ())
    examples = described["used"] if key == "data.max-examples" and counts else int(config[key])
    line = told_uneven_draw(key, examples, counts, described["classes"]) if counts else ""
    return [line] if line else []


def _even_draw(counts: Sequence[int], examples: int) -> list[float]:
    """Return how many images of each class a balanced draw takes, apart from rounding."""
    taken = [0.0] * len(counts)
    left = float(examples)
    for done, place in enumerate(sorted(range(len(counts)), key=lambda place: counts[place])):
        taken[place] = min(counts[place], left / (len(counts) - done))
        left -= taken[place]
    return taken


def _spared(described: DescribedPartition, part: str, key: str, config: Mapping[str, Any]) -> list[str]:
    """Say which classes gave less to a part than the others, because of the limit of ``partition``."""
    most, taken = most_of_a_class(float(config[key])), _counts(described, part)
    later = ("pool", "clients") if part == "validation" else ("clients",)
    counts = taken + sum(_counts(described, name) for name in later)
    spared = np.flatnonzero((taken == class_limits(counts, most)) & (taken < taken.max()) & (taken < counts))
    if not len(spared) or not taken.any():
        return []
    named = [f"{taken[place]} of {counts[place]} {described['classes'][place]}" for place in spared]
    return [
        f"{key} = {config[key]:g} takes at most {_percent(most)} of a class: {some(named, _NAMED)}; of other classes "
        f"up to {taken.max()}"
    ]


def _counts(described: DescribedPartition, name: str) -> Any:
    """Return int64 [classes], images of a part by class: of all clients together, and none where there is no part."""
    counts = np.array(described.get(name, np.zeros(len(described["classes"]))), np.int64)
    return counts.sum(axis=0) if counts.ndim == 2 else counts


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
