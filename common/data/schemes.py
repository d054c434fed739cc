"""The schemes by which training images are divided among clients; as far as they go, flwr-datasets' partitioners."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.errors import FedShieldError
from common.seeding import rng_for, seed_for

Indices = NDArray[np.int64]

# The ten two-class clients of arXiv 2512.04264's non-IID setting: every class is at two of them.
_PAPER_CLASSES = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (0, 3), (1, 4), (2, 5), (6, 9), (7, 8))
_PREASSIGNED = 5  # images of each of its classes that a client of `distribution` has at least


@dataclass(frozen=True)
class SchemeParameters:
    """What a scheme may need.

    Attributes:
        alpha: Dirichlet concentration, > 0; small is far from IID.
        classes_per_client: classes (``pathological``, ``distribution``) or shards (``shards``) of each client.
        seed: of the partitioner.
        sizes: of the clients, in proportion, > 0; none for clients of one size.
        sigma: standard deviation of the logarithm of a class's images at a client (``distribution``), >= 0.
        owners: number of each image's owner, in [0, number of owners), in the order of the labels; none but for
            ``natural``.
    """

    alpha: float
    classes_per_client: int
    seed: int
    sizes: tuple[float, ...] = ()
    sigma: float = 2.0
    owners: tuple[int, ...] = ()

    def of(self, rows: Indices) -> "SchemeParameters":
        """Return the parameters for some of the images."""
        return replace(self, owners=tuple(self.owners[row] for row in rows.tolist())) if self.owners else self


def _by_flower(partitioner: object, labels: Indices, clients: int, **columns: Indices) -> list[Indices]:
    """Run one of flwr-datasets' partitioners, which know datasets but not index arrays."""
    from datasets import Dataset

    columns |= {"label": labels, "row": np.arange(len(labels))}
    partitioner.dataset = Dataset.from_dict(columns)  # type: ignore[attr-defined]
    load = partitioner.load_partition  # type: ignore[attr-defined]
    return [np.asarray(load(client)["row"], dtype=np.int64) for client in range(clients)]


def _iid(labels: Indices, classes: int, clients: int, parameters: SchemeParameters) -> list[Indices]:
    from flwr_datasets.partitioner import IidPartitioner

    return _by_flower(IidPartitioner(clients), labels, clients)


def _dirichlet(labels: Indices, classes: int, clients: int, parameters: SchemeParameters) -> list[Indices]:
    """Each class is divided by a draw from Dir(alpha) (Yurochkin et al. 2019, arXiv 1905.12022)."""
    from flwr_datasets.partitioner import DirichletPartitioner

    partitioner = DirichletPartitioner(
        clients, "label", alpha=parameters.alpha, min_partition_size=1, seed=seed_for(parameters.seed, "scheme")
    )
    return _by_flower(partitioner, labels, clients)


def _pathological(labels: Indices, classes: int, clients: int, parameters: SchemeParameters) -> list[Indices]:
    """Exactly k classes at each client (Li et al. 2022, arXiv 2102.02079); client i has class i mod N among them."""
    from flwr_datasets.partitioner import PathologicalPartitioner

    if parameters.classes_per_client > classes:
        raise FedShieldError(
            f"partition.classes-per-client = {parameters.classes_per_client}: the data has {classes} classes; "
            f"set it to {classes} or less"
        )
    partitioner = PathologicalPartitioner(
        clients, "label", parameters.classes_per_client, "first-deterministic", seed=seed_for(parameters.seed, "scheme")
    )
    return _by_flower(partitioner, labels, clients)


def _shards(labels: Indices, classes: int, clients: int, parameters: SchemeParameters) -> list[Indices]:
    """Rows sorted by class, cut into equal shards, k for each client (McMahan et al. 2017, arXiv 1602.05629)."""
    from flwr_datasets.partitioner import ShardPartitioner

    if clients * parameters.classes_per_client > len(labels):
        raise FedShieldError(
            f"partition.classes-per-client = {parameters.classes_per_client}: {clients} clients with as many shards "
            f"each need more than the {len(labels)} private training images; use fewer"
        )
    partitioner = ShardPartitioner(
        clients, "label", parameters.classes_per_client, seed=seed_for(parameters.seed, "scheme")
    )
    local = _by_flower(partitioner, labels, clients)
    # The partitioner drops what is left when the shards do not divide the data: each row goes to a client that has its
    # class, the smallest such one first.
    for row in np.setdiff1d(np.arange(len(labels)), np.concatenate(local)):
        holders = [client for client in range(clients) if labels[row] in labels[local[client]]] or range(clients)
        smallest = min(holders, key=lambda client: len(local[client]))
        local[smallest] = np.append(local[smallest], row)
    return local


def _paper(labels: Indices, classes: int, clients: int, parameters: SchemeParameters) -> list[Indices]:
    """The ten two-class clients of arXiv 2512.04264: each class is halved between the two clients that have it."""
    if classes != 10:
        raise FedShieldError(f"partition.scheme = paper: made for 10 classes, the data has {classes}; use pathological")
    local: list[list[Indices]] = [[] for _ in _PAPER_CLASSES]
    for label in range(classes):
        holders = [client for client, pair in enumerate(_PAPER_CLASSES) if label in pair]
        halves = np.array_split(np.flatnonzero(labels == label), len(holders))
        for client, rows in zip(holders, halves, strict=True):
            local[client].append(rows)
    return [np.concatenate(rows) for rows in local]


def _size(labels: Indices, classes: int, clients: int, parameters: SchemeParameters) -> list[Indices]:
    """Clients of the sizes that are given, in proportion; which images each has is drawn at random."""
    from flwr_datasets.partitioner import SizePartitioner

    return _by_flower(SizePartitioner(_counts(len(labels), clients, parameters.sizes)), labels, clients)


def _counts(total: int, clients: int, sizes: tuple[float, ...]) -> list[int]:
    """Return whole numbers in proportion to ``sizes`` whose sum is ``total``; of what is left, one each, in turn.

    Largest remainders first; clients of one size where none are given.
    """
    shares = np.array(sizes or (1.0,) * clients)
    exact = total * shares / shares.sum()
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return [int(count) for count in counts]


def _growing(kind: str) -> "Scheme":
    """Return a scheme in which client i, from 1, has images in proportion to i, exp(i) or i²."""

    def divide(labels: Indices, classes: int, clients: int, parameters: SchemeParameters) -> list[Indices]:
        from flwr_datasets import partitioner

        try:
            return _by_flower(getattr(partitioner, kind)(clients), labels, clients)
        except ValueError as error:
            raise FedShieldError(
                f"federation.clients = {clients}: {len(labels)} private training images are so few that the smallest "
                "client would have none; use fewer clients, or another partition.scheme"
            ) from error

    return divide


def _distribution(labels: Indices, classes: int, clients: int, parameters: SchemeParameters) -> list[Indices]:
    """As many classes at each client, whose sizes follow a log-normal law (Li et al. 2020, arXiv 1812.06127).

    Client i has classes i, i + 1, ... (modulo their number), and at least five images of each.
    """
    from flwr_datasets.partitioner import DistributionPartitioner

    known, there = len(np.unique(labels)), parameters.classes_per_client
    if clients % known:
        raise FedShieldError(
            f"federation.clients = {clients}: partition.scheme = distribution needs a multiple of the {known} classes"
        )
    columns = there * clients // known
    array = rng_for(parameters.seed, "distribution").lognormal(0.0, parameters.sigma, (known, columns))
    seed = seed_for(parameters.seed, "scheme")
    return _by_flower(DistributionPartitioner(array, clients, there, "label", _PREASSIGNED, seed=seed), labels, clients)


def _inner_dirichlet(labels: Indices, classes: int, clients: int, parameters: SchemeParameters) -> list[Indices]:
    """Each client draws its mixture of classes from Dir(alpha) (Acar et al. 2021, arXiv 2111.04263), and has its size.

    A class that has run out is drawn no more.
    """
    from flwr_datasets.partitioner import InnerDirichletPartitioner

    _, numbered = np.unique(labels, return_inverse=True)  # it takes the classes for 0, 1, 2, ...
    counts = _counts(len(labels), clients, parameters.sizes)
    partitioner = InnerDirichletPartitioner(
        counts, "label", float(parameters.alpha), seed=seed_for(parameters.seed, "scheme")
    )
    try:
        with np.errstate(invalid="ignore"):
            return _by_flower(partitioner, numbered, clients)
    except ValueError as error:
        raise FedShieldError(
            f"partition.alpha = {parameters.alpha:g}: the classes that a client draws run out before it has its "
            "images; raise it, or try another seed"
        ) from error


def _natural(labels: Indices, classes: int, clients: int, parameters: SchemeParameters) -> list[Indices]:
    """Each image is at the client of its owner; where there are several owners for each client, in groups of them."""
    from flwr_datasets.partitioner import GroupedNaturalIdPartitioner

    owners = np.array(parameters.owners)
    count = len(np.unique(owners))
    if count % clients:
        fitting = [str(number) for number in range(2, count + 1) if count % number == 0]
        raise FedShieldError(
            f"federation.clients = {clients}: the private training images have {count} owners; set federation.clients "
            f"to one of {', '.join(fitting[-6:])}, so that each client has the images of as many"
        )
    grouped = GroupedNaturalIdPartitioner("owner", count // clients, "strict", sort_unique_ids=True)
    return _by_flower(grouped, labels, clients, owner=owners)


Scheme = Callable[[Indices, int, int, SchemeParameters], list[Indices]]
SCHEMES: dict[str, Scheme] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "pathological": _pathological,
    "shards": _shards,
    "paper": _paper,
    "size": _size,
    "linear": _growing("LinearPartitioner"),
    "square": _growing("SquarePartitioner"),
    "exponential": _growing("ExponentialPartitioner"),
    "distribution": _distribution,
    "inner-dirichlet": _inner_dirichlet,
    "natural": _natural,
}
