"""What all kept evaluations of the same weights, under the same threat, know of each image: their union.

An image that one of them has broken is broken, whichever attacks the others ran. Images are recognized by their names
(``Dataset.image_ids``), so that evaluations of different numbers of images can be put together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.evaluation.results import Evaluation, Rate, Shares
from common.statistics import Mask
from simulations.reports.accuracy import Record

Arrays = Mapping[str, NDArray[Any]]
Ids = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Kept:
    """An evaluation as a run directory has it.

    Attributes:
        record: its figures.
        arrays: its predictions, as ``read_predictions`` returns them; empty where they are not kept.
        ids: uint64 [N], names of its images; empty without predictions.
    """

    record: Record
    arrays: Arrays
    ids: Ids

    @cached_property
    def evaluation(self) -> Evaluation:
        """The predictions, which must be there."""
        return Evaluation.from_arrays(self.arrays, len(self.arrays["classes"]))

    @cached_property
    def survives(self) -> Mask:
        """Which images no attack of its own breaks, bool [N]."""
        return self.evaluation.masks()["worst"]


@dataclass(frozen=True, eq=False)
class Together:
    """Evaluations that share images, put together on those of the strongest one.

    Attributes:
        strongest: whose images they are.
        group: all of them, in the order in which they were made.
        evaluation: what is known of these images; None where the only one of the group has no predictions.
    """

    strongest: Kept
    group: Sequence[Kept]
    evaluation: Evaluation | None

    @property
    def worst(self) -> float:
        """The share of these images that nothing has broken."""
        rate = self.evaluation.worst if self.evaluation else None
        return rate.value if rate else float(self.strongest.record["worst"]["value"])


def name_images(found: Sequence[tuple[Record, Arrays]]) -> list[Kept]:
    """Give each evaluation the names of its images.

    Earlier versions kept no names, but a digest of all images together: with the same one, they are the same images in
    the same order. Predictions that do not belong to their figures are left out.
    """
    usable = [(record, arrays if _fits(record, arrays) else {}) for record, arrays in found]
    known = {_images(arrays): arrays["image_ids"] for _, arrays in usable if "image_ids" in arrays}
    return [Kept(record, arrays, _ids(arrays, known)) for record, arrays in usable]


def _fits(record: Record, arrays: Arrays) -> bool:
    if not arrays:
        return False
    return len(arrays["labels"]) == record["n"] and set(arrays["attacks"]) == {"natural", *record["robust"]}


def _images(arrays: Arrays) -> tuple[str, int]:
    return str(arrays["images"]), len(arrays["labels"])


def _ids(arrays: Arrays, known: Mapping[tuple[str, int], Ids]) -> Ids:
    if not arrays:
        return np.zeros(0, np.uint64)
    digest, count = _images(arrays)
    if (digest, count) in known:
        return known[digest, count]
    made: Ids = np.frombuffer(sha256(digest.encode()).digest()[:8], "<u8") + np.arange(count, dtype=np.uint64)
    return made


def put_together(kept: Sequence[Kept]) -> list[Together]:
    """Put evaluations together that share images; the lowest worst case comes first.

    Those without predictions, or of other images, stay alone: nothing tells how much the others would lower them.

    Args:
        kept: evaluations with attacks, of the same weights and threat, in the order in which they were made.
    """
    made = []
    for group in _groups(kept):
        fullness = {each: (each.record["n"], len(each.record["robust"]), place) for place, each in enumerate(group)}
        strongest = reduce(_stronger, sorted(group, key=fullness.__getitem__, reverse=True))
        made.append(Together(strongest, group, union(strongest, group) if strongest.arrays else None))
    return sorted(made, key=lambda each: (each.worst, -each.strongest.record["n"]))


def _groups(kept: Sequence[Kept]) -> list[list[Kept]]:
    groups: list[list[Kept]] = []
    for each in kept:
        near = [group for group in groups if any(len(np.intersect1d(each.ids, other.ids)) for other in group)]
        joined = sorted([*(member for group in near for member in group), each], key=kept.index)
        groups = [*(group for group in groups if group not in near), joined]
    return groups


def _stronger(fuller: Kept, other: Kept) -> Kept:
    """Return whose attacks are stronger, the fuller of two if they are not.

    The one with AutoAttack is; else the one that leaves fewer of the images that both have seen. Attacks that the
    fuller one has run too are not stronger, whatever their random starts have found.
    """
    first, second = set(fuller.record["robust"]), set(other.record["robust"])
    if ("autoattack" in first) != ("autoattack" in second):
        return fuller if "autoattack" in first else other
    if second <= first:
        return fuller
    seen = np.intersect1d(fuller.ids, other.ids)
    left, own = (int((each.survives & np.isin(each.ids, seen)).sum()) for each in (fuller, other))
    return other if own < left else fuller


def union(target: Kept, group: Sequence[Kept]) -> Evaluation:
    """Return what is known of the images of an evaluation: each of them counts as broken if one of a group breaks it.

    Attacks of others that have seen all these images come after its own; those that have seen a part of them count in
    the worst case alone.

    Args:
        target: one of the group.
        group: evaluations with predictions.
    """
    own = target.evaluation
    labels, predictions = own.labels, dict(own.predictions)
    broken = np.zeros(own.n, bool)
    for other in (each for each in group if each is not target):
        place, there = _places(target.ids, other.ids)
        broken |= np.isin(target.ids, other.ids[~other.survives])
        for label, predicted in other.evaluation.predictions.items():
            if label == "natural" or (label not in predictions and not there.all()):
                continue
            before = predictions.get(label, labels.astype(np.int16))
            predictions[label] = np.where(there & (before == labels), predicted[place], before)
    return Evaluation(labels, predictions, own.classes, broken=broken)


def _places(ids: Ids, other: Ids) -> tuple[NDArray[np.int64], Mask]:
    """Return where the images are among others, int64 [N], and which of them are there, bool [N]."""
    order = np.argsort(other, kind="stable")
    place = order[np.searchsorted(other, ids, sorter=order).clip(max=len(other) - 1)]
    return place, other[place] == ids


def figures_of(together: Together, shares: Shares | None) -> dict[str, Any]:
    """Return the figures of evaluations that were put together, as ``Evaluation.as_json`` has them.

    Args:
        together: the evaluations; the strongest one's figures are kept as far as the others cannot change them.
        shares: as in ``Evaluation.per_client``; None for no figures of clients.
    """
    record, known = together.strongest.record, together.evaluation
    if known is None or len(together.group) == 1:
        return dict(record)
    of_clients = shares if "per-client" in record else None
    figures = {**record, **known.as_json("per-class" in record, of_clients)}
    masks = known.masks()
    alone = np.logical_and.reduce([mask for label, mask in masks.items() if label != "worst"])
    return {**figures, "broken-elsewhere": int((alone & ~masks["worst"]).sum())}


def known_of(kept: Kept, group: Sequence[Kept]) -> Rate | None:
    """Return the worst case on the images of one evaluation of a group; None where that is its own."""
    return union(kept, group).worst if len(group) > 1 else None


def same_images(first: Kept, second: Kept) -> bool:
    """Return whether two evaluations with predictions are of the same images."""
    return len(first.ids) == len(second.ids) > 0 and bool(np.isin(first.ids, second.ids).all())
