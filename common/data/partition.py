"""Who holds which training image: the clients' shards, the server's shared pool and its validation images.

Every index in this module is a row of the training set. The validation images are taken out first, then the pool, and
the shards split the rest, so no image is in two of them; ``Partition`` checks that.
"""

import hashlib
import warnings
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from common.data.array_cache import Arrays, find_arrays, keep_arrays
from common.data.draws import balanced_subset
from common.data.schemes import SCHEMES, SchemeParameters
from common.errors import FedShieldError
from common.paths import cache_dir, sources_digest
from common.seeding import rng_for

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """A division of the rows in use.

    Attributes:
        shards: one increasing index array for each client; disjoint, none empty.
        pool: the server's shared pool, increasing; disjoint from every shard.
        shared: the part of the pool that every client receives, increasing.
        validation: images that nobody trains on, by which the best checkpoint is chosen, increasing.
    """

    shards: tuple[Indices, ...]
    pool: Indices
    shared: Indices
    validation: Indices

    def __post_init__(self) -> None:
        everything = np.concatenate([*self.shards, self.pool, self.validation])
        if len(np.unique(everything)) != len(everything):
            raise AssertionError("a training image was given away twice")
        for client, shard in enumerate(self.shards):
            if len(shard) == 0:
                raise FedShieldError(
                    f"client {client} has no training image; use fewer federation.clients, a larger data.max-examples, "
                    "or another partition.scheme"
                )


@dataclass(frozen=True)
class Amounts:
    """How many training images are used, and what for.

    Attributes:
        max_examples: number of training images to use, balanced over the classes; 0 = all.
        pool_fraction: share of the images to train on that becomes the pool, in [0, 1).
        shared_fraction: share of the pool that every client receives, in [0, 1].
        validation_fraction: share of the used images that is not trained on, in [0, 0.5].
    """

    max_examples: int
    pool_fraction: float
    shared_fraction: float
    validation_fraction: float = 0.0


def partition(
    labels: Indices, classes: int, clients: int, scheme: str, parameters: SchemeParameters, amounts: Amounts
) -> Partition:
    """Divide a training set.

    Args:
        labels: int64 [N] of the whole training set.
        classes: number of classes.
        clients: number of shards.
        scheme: a key of ``SCHEMES``.
        parameters: of the scheme; its seed fixes everything here.
        amounts: of training, pool, shared and validation images.

    Raises:
        FedShieldError: the division is impossible, or leaves a client without data.
    """
    seed = parameters.seed
    used, validation = _hold_out(labels, amounts.max_examples, amounts.validation_fraction, seed)
    pool = balanced_part(used, labels, amounts.pool_fraction, seed, "pool", most_of_a_class(amounts.pool_fraction))
    shared = balanced_part(pool, labels, amounts.shared_fraction, seed, "shared")
    private = np.setdiff1d(used, pool, assume_unique=True)
    if len(private) < clients:
        raise FedShieldError(
            f"federation.clients = {clients}: more clients than the {len(private)} private training images; "
            "use fewer clients or a larger data.max-examples"
        )
    # Shuffled first: the partitioners cut each class in order of appearance, and that order may mean something.
    private = rng_for(seed, "partition").permutation(private)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # retries of the Dirichlet draw
            local = SCHEMES[scheme](labels[private], classes, clients, parameters.of(private))
    except ValueError as error:
        raise FedShieldError(f"partition.scheme = {scheme}: {' '.join(str(error).split())}") from error
    missed = len(private) - sum(len(rows) for rows in local)
    if missed:
        raise FedShieldError(
            f"partition.scheme = {scheme}: {missed} training images, of classes that no client has, would be "
            "unused; raise partition.classes-per-client or federation.clients, or try another seed"
        )
    return Partition(tuple(np.sort(private[rows]) for rows in local), pool, shared, validation)


def undivided(labels: Indices, max_examples: int, validation_fraction: float, seed: int) -> Partition:
    """Give everything to one holder, except the validation images, which are those of ``partition`` for the same seed.

    Args:
        labels: int64 [N] of the whole training set.
        max_examples: as in ``Amounts``.
        validation_fraction: as in ``Amounts``.
        seed: as in its parameters.
    """
    used, validation = _hold_out(labels, max_examples, validation_fraction, seed)
    return Partition((used,), used[:0], used[:0], validation)


def _hold_out(labels: Indices, max_examples: int, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Return the rows to train on, and the rows to choose the best checkpoint by; both increasing and balanced."""
    used = balanced_subset(labels, max_examples, seed, "subset")
    validation = balanced_part(used, labels, fraction, seed, "validation", most_of_a_class(fraction))
    if fraction > 0 and len(validation) == 0:
        raise FedShieldError(
            f"data.validation-fraction = {fraction:g}: no image of {len(used)} training images; use a larger fraction, "
            "or 0 to keep the last checkpoint"
        )
    return np.setdiff1d(used, validation, assume_unique=True), validation


def kept_partition(
    labels: Indices, classes: int, clients: int, scheme: str, parameters: SchemeParameters, amounts: Amounts
) -> Partition:
    """Do ``partition`` once for a machine, with the same arguments: the partitioners cost seconds of imports.

    Where the cache cannot be written it is done again each time.
    """
    arguments = classes, clients, scheme, parameters, amounts
    # What decides the division: the code, the libraries' random numbers, and what they are asked for.
    rules = sources_digest(
        *(f"common/{name}.py" for name in ("data/partition", "data/schemes", "data/draws", "seeding"))
    )
    versions = f"{version('flwr-datasets')} {version('datasets')} {np.__version__} {arguments}"
    key = hashlib.sha256(rules + versions.encode() + labels.tobytes()).hexdigest()[:32]
    place = cache_dir() / "partitions" / key

    def find() -> Arrays | None:
        return find_arrays(place, ("rows", "ends", "pool", "shared", "validation"))

    try:
        kept = find() or keep_arrays(place, lambda: _to_arrays(partition(labels, *arguments)), find)
    except FedShieldError:
        return partition(labels, *arguments)
    rows, ends, *others = (np.array(kept[name]) for name in ("rows", "ends", "pool", "shared", "validation"))
    return Partition(tuple(np.split(rows, ends[:-1])), *others)


def _to_arrays(division: Partition) -> Arrays:
    ends = np.cumsum([len(shard) for shard in division.shards])
    return {
        "rows": np.concatenate(division.shards),
        "ends": ends,
        "pool": division.pool,
        "shared": division.shared,
        "validation": division.validation,
    }


def most_of_a_class(fraction: float) -> float:
    """Return the share of a class that pool or validation set may take: a rare class must not go there as a whole.

    It is what the fraction takes when it is taken twice, from a class and from what is left of it: 0.36 for 0.2.
    """
    return fraction * (2 - fraction)


def balanced_part(
    rows: Indices, labels: Indices, fraction: float, seed: int, purpose: str, most: float = 1.0
) -> Indices:
    """Return the class-balanced ``fraction`` of ``rows``; a smaller one is contained in a larger one of the same limit.

    Args:
        rows: to choose from.
        labels: int64 [N] of the whole training set.
        fraction: share of the rows, in [0, 1].
        seed: as in ``balanced_subset``.
        purpose: as there.
        most: as there.
    """
    count = round(fraction * len(rows))
    return rows[balanced_subset(labels[rows], count, seed, purpose, most)] if count else rows[:0]
