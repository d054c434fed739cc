"""The partition: disjoint, exhaustive, repeatable, and as far from IID as its scheme says."""

import hashlib
import inspect

import numpy as np
import pytest
from numpy.typing import NDArray

from common.data.draws import balanced_subset, class_limits
from common.data.partition import (
    Amounts,
    Partition,
    kept_partition,
    most_of_a_class,
    partition,
    undivided,
)
from common.data.schemes import SCHEMES, SchemeParameters
from common.errors import FedShieldError
from common.paths import ROOT
from common.seeding import seed_for

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 53))  # 530 images, 53 a class: nothing divides


def divide(scheme: str, seed: int = 1, clients: int = 10, classes_per_client: int = 2, **changes: float) -> Partition:
    sizes = tuple(range(1, clients + 1)) if scheme == "size" else ()
    owners = tuple(range(clients)) * 53 if scheme == "natural" else ()
    alpha = changes.pop("alpha", 0.5)
    parameters = SchemeParameters(alpha, classes_per_client, seed, sizes=sizes, owners=owners)
    given = {"max_examples": 0, "pool_fraction": 0.2, "shared_fraction": 0.4, **changes}
    return partition(LABELS, 10, clients, scheme, parameters, Amounts(**given))  # type: ignore[arg-type]


def rows(division: Partition) -> list[list[int]]:
    return [part.tolist() for part in (*division.shards, division.pool, division.shared, division.validation)]


@pytest.mark.parametrize("validation_fraction", [0.0, 0.25])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_disjoint_exhaustive_and_repeatable(scheme: str, validation_fraction: float) -> None:
    clients = 4 if scheme in {"square", "exponential"} else 10  # the smallest of ten would have none
    division = divide(scheme, clients=clients, validation_fraction=validation_fraction)
    given_away = np.concatenate([*division.shards, division.pool, division.validation])
    assert sorted(given_away.tolist()) == list(range(len(LABELS)))
    assert set(division.shared) <= set(division.pool)
    assert min(map(len, division.shards)) > 0
    assert rows(divide(scheme, clients=clients, validation_fraction=validation_fraction)) == rows(division)
    assert rows(divide(scheme, clients=clients, validation_fraction=validation_fraction, seed=2)) != rows(division)


@pytest.mark.parametrize(
    ("scheme", "digest"),
    [
        ("iid", "96cdea56a67c6375"),
        ("dirichlet", "4635062862128fc6"),
        ("pathological", "5c687b552ab787ec"),
        ("shards", "7190095033150bae"),
        ("paper", "8d4e6ad18e0e426c"),
    ],
)
def test_without_a_validation_split_the_division_is_that_of_the_version_before(scheme: str, digest: str) -> None:
    # Figures in the docs, and runs to be continued, come from these indices (commit 501bce3).
    division = divide(scheme)
    parts = (*division.shards, division.pool, division.shared)
    assert hashlib.sha256(b"".join(part.tobytes() + b"|" for part in parts)).hexdigest()[:16] == digest
    assert len(division.validation) == 0


SVHN = (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)  # training images of each digit


USUAL = ((0.0, 0.2), (0.1, 0.2))  # of the validation images, and of the pool
ANY = (*USUAL, (0.25, 0.1), (0.5, 0.5), (0.0, 0.9))
ONE = ((0.0, 0.2), (0.0, 0.1), (0.5, 0.0))


@pytest.mark.parametrize(
    ("counts", "max_examples", "fractions", "digest"),
    [
        ((400,) * 10, 0, ANY, "ae57f07f81fc81a4"),
        ((400,) * 10, 1500, ANY, "ba65a60483269066"),
        ((400,) * 10, 1234, ANY, "85dcdc91942355e1"),
        ((5000,) * 10, 0, ANY, "e2a3dc3c0cda3e23"),
        ((5000,) * 10, 5000, ANY, "16983fd477e96787"),
        ((500,) * 100, 0, ANY, "4c2226419e6ba1c5"),
        ((2, 3) * 5, 0, ONE, "a3bf10357420a14f"),
        (SVHN, 0, USUAL, "2261bda7e29bed48"),
    ],
    ids=["shapes10", "shapes10-1500", "shapes10-1234", "cifar10", "cifar10-5000", "cifar100", "few", "svhn"],
)
def test_sparing_rare_classes_changes_nothing_where_none_is_rare(
    counts: tuple[int, ...], max_examples: int, fractions: tuple[tuple[float, float], ...], digest: str
) -> None:
    # Digests of the version that spared none (commit 3f40788).
    labels = np.random.default_rng(7).permutation(np.repeat(np.arange(len(counts)), counts))
    found = hashlib.sha256()
    for validation, pool in fractions:
        for seed in (1, 2):
            amounts = Amounts(max_examples, pool, 0.4, validation)
            division = partition(labels, len(counts), 2, "iid", SchemeParameters(0.5, 2, seed), amounts)
            for part in (*division.shards, division.pool, division.shared, division.validation):
                found.update(part.tobytes() + b"|")
    assert found.hexdigest()[:16] == digest


def test_no_part_takes_more_than_its_share_of_a_rare_class() -> None:
    labels = np.repeat(np.arange(4), (600, 600, 600, 60))

    def counts(rows: NDArray[np.int64]) -> list[int]:
        return np.bincount(labels[rows], minlength=4).tolist()

    division = partition(labels, 4, 4, "iid", SchemeParameters(0.5, 2, 1), Amounts(0, 0.2, 0.4, 0.1))
    # A tenth of 1,860 is 186: 0.1 × 1.9 of 60 is 11.4, and the others give the 175 that are missing.
    assert sorted(counts(division.validation)) == [11, 58, 58, 59]
    # A fifth of the other 1,674 is 335: 0.2 × 1.8 of 49 is 17.64, and the others give 318.
    assert counts(division.pool) == [106, 106, 106, 17]
    assert counts(np.concatenate(division.shards))[3] == 32
    # What every client receives stays balanced: two fifths of 335 are 134, and the rare class gives all of its 17.
    assert counts(division.shared) == [39, 39, 39, 17]
    alone = undivided(labels, 0, 0.1, 1)
    assert alone.validation.tolist() == division.validation.tolist()
    assert counts(alone.shards[0])[3] == 49


def test_a_single_image_of_a_class_is_trained_on() -> None:
    labels = np.repeat(np.arange(3), (50, 50, 1))
    for seed in range(20):
        division = partition(labels, 3, 2, "iid", SchemeParameters(0.5, 2, seed), Amounts(0, 0.2, 0.4, 0.1))
        assert 100 in np.concatenate(division.shards)


def test_a_part_is_smaller_where_the_classes_may_not_give_as_much() -> None:
    labels = np.repeat(np.arange(10), (*(5,) * 9, 15))
    # A tenth of 60 would be 6: nine classes may give 0.19 × 5, rounded down to none, the tenth 0.19 × 15, rounded up.
    assert labels[undivided(labels, 0, 0.1, 1).validation].tolist() == [9] * 3
    # Three tenths are 18: nine times 0.51 × 5 are enough for that.
    assert len(undivided(labels, 0, 0.3, 1).validation) == 18


def test_validation_images_are_balanced_and_the_same_with_and_without_a_federation() -> None:
    division = divide("paper", max_examples=200, validation_fraction=0.25)
    assert np.bincount(LABELS[division.validation]).tolist() == [5] * 10
    assert len(division.pool) == 30  # a fifth of the 150 that are trained on
    whole = undivided(LABELS, 200, 0.25, 1)
    assert whole.validation.tolist() == division.validation.tolist()
    assert len(whole.shards) == 1
    assert whole.shards[0].tolist() == sorted(np.concatenate([*division.shards, division.pool]).tolist())
    assert len(whole.pool) == len(whole.shared) == 0
    alone = divide("iid", clients=1, max_examples=200, validation_fraction=0.25, pool_fraction=0.0)
    assert rows(alone) == rows(whole)
    # Sharing decides nothing here, and a larger split contains a smaller one.
    assert divide("iid", max_examples=200, validation_fraction=0.25, pool_fraction=0.5).validation.tolist() == (
        division.validation.tolist()
    )
    larger = undivided(LABELS, 200, 0.5, 1).validation
    assert set(division.validation) < set(larger)
    assert len(larger) == 100


def test_pool_and_shared_slice_are_balanced_and_grow_by_inclusion() -> None:
    division = divide("iid")
    assert np.bincount(LABELS[division.pool]).tolist() == pytest.approx([10.6] * 10, abs=1)
    assert len(division.pool) == 106
    assert len(division.shared) == 42
    assert set(np.bincount(LABELS[division.shared]).tolist()) == {4, 5}
    slices = [set(divide("iid", shared_fraction=share).shared.tolist()) for share in (0.0, 0.3, 0.6, 1.0)]
    assert slices[0] == set()
    assert slices[0] < slices[1] < slices[2] < slices[3] == set(division.pool.tolist())


def test_sharing_does_not_change_who_holds_what() -> None:
    assert rows(divide("paper", shared_fraction=0.0))[:11] == rows(divide("paper", shared_fraction=1.0))[:11]


def test_max_examples_uses_a_balanced_part() -> None:
    division = divide("iid", max_examples=200)
    used = np.concatenate([*division.shards, division.pool])
    assert np.bincount(LABELS[used]).tolist() == [20] * 10
    assert len(division.pool) == 40


def test_iid_does_not_follow_the_order_of_the_images() -> None:
    # flwr-datasets' IidPartitioner cuts contiguous pieces: images sorted by class would be far from IID.
    parameters = SchemeParameters(0.5, 2, 1)
    division = partition(np.sort(LABELS), 10, 10, "iid", parameters, Amounts(0, 0.0, 0.0))
    assert all(len(np.unique(np.sort(LABELS)[shard])) >= 8 for shard in division.shards)


def test_paper_scheme_gives_the_published_pairs() -> None:
    found = [set(LABELS[shard].tolist()) for shard in divide("paper").shards]
    assert found == [{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {0, 3}, {1, 4}, {2, 5}, {6, 9}, {7, 8}]


def test_pathological_and_shards_limit_the_classes() -> None:
    assert {len(np.unique(LABELS[shard])) for shard in divide("pathological", classes_per_client=3).shards} == {3}
    # Two shards of a sorted list touch at most four classes, leftovers included.
    assert max(len(np.unique(LABELS[shard])) for shard in divide("shards").shards) <= 4


def test_small_alpha_is_far_from_iid_and_large_alpha_near() -> None:
    def spread(alpha: float) -> float:
        counts = [
            np.bincount(LABELS[shard], minlength=10) / len(shard) for shard in divide("dirichlet", alpha=alpha).shards
        ]
        return float(np.std(counts, axis=0).mean())

    assert spread(0.1) > 3 * spread(100.0)


@pytest.mark.parametrize(
    ("scheme", "images", "sizes", "expected"),
    [
        ("size", 100, (1, 1, 2.5), [22, 22, 56]),  # 22.2, 22.2 and 55.6: the largest remainder gets what is left
        ("linear", 100, (), [10, 20, 30, 40]),
        ("square", 100, (), [3, 13, 30, 54]),  # 3.3, 13.3, 30 and 53.3: what is left goes to the last
        ("exponential", 1000, (), [32, 87, 236, 645]),  # e, e², e³, e⁴ of 84.79
        ("inner-dirichlet", 100, (), [25, 25, 25, 25]),
        ("inner-dirichlet", 100, (1, 2, 3, 4), [10, 20, 30, 40]),
    ],
)
def test_sizes_grow_as_the_scheme_says(scheme: str, images: int, sizes: tuple[float, ...], expected: list[int]) -> None:
    labels = np.arange(images) % 5
    parameters = SchemeParameters(10.0, 2, 1, sizes=sizes)
    division = partition(labels, 5, len(expected), scheme, parameters, Amounts(0, 0.0, 0.0))
    assert [*map(len, division.shards)] == expected


def test_distribution_gives_each_client_neighboring_classes_in_amounts_that_differ() -> None:
    labels = np.arange(4000) % 10
    spread = []
    for sigma in (0.0, 2.0):
        parameters = SchemeParameters(0.5, 3, 1, sigma=sigma)
        shards = partition(labels, 10, 20, "distribution", parameters, Amounts(0, 0.0, 0.0)).shards
        for client, shard in enumerate(shards):
            assert set(labels[shard].tolist()) == {(client + step) % 10 for step in range(3)}
            assert np.bincount(labels[shard])[[*set(labels[shard])]].min() >= 5
        spread.append(max(map(len, shards)) / min(map(len, shards)))
    # Six clients share each class: 400 / 6 images each, rounded down, and what is left goes to one of them.
    assert spread[0] < 1.1
    assert spread[1] > 3


def test_inner_dirichlet_is_far_from_iid_for_a_small_alpha_though_sizes_are_equal() -> None:
    def spread(alpha: float) -> float:
        shards = divide("inner-dirichlet", alpha=alpha, clients=5).shards
        assert max(map(len, shards)) - min(map(len, shards)) <= 1
        return float(np.std([np.bincount(LABELS[shard], minlength=10) / len(shard) for shard in shards], axis=0).mean())

    assert spread(0.5) > 3 * spread(1000.0)


def test_inner_dirichlet_takes_classes_without_private_images() -> None:
    labels = np.array([0, 2, 3] * 20)  # of four classes
    division = partition(labels, 4, 3, "inner-dirichlet", SchemeParameters(1.0, 2, 1), Amounts(0, 0.0, 0.0))
    assert sorted(np.concatenate(division.shards).tolist()) == [*range(60)]


def test_owners_stay_together_and_are_grouped() -> None:
    owners = tuple(number % 6 for number in range(len(LABELS)))
    parameters = SchemeParameters(0.5, 2, 1, owners=owners)
    for clients, groups in ((6, [{0}, {1}, {2}, {3}, {4}, {5}]), (2, [{0, 1, 2}, {3, 4, 5}])):
        division = partition(LABELS, 10, clients, "natural", parameters, Amounts(0, 0.2, 0.4))
        assert [{owners[row] for row in shard} for shard in division.shards] == groups


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"scheme": "pathological", "classes_per_client": 11},
            "partition.classes-per-client = 11: the data has 10 classes",
        ),
        ({"scheme": "iid", "clients": 500}, "federation.clients = 500: more clients than the 424 private"),
        ({"scheme": "pathological", "clients": 3}, "of classes that no client has"),
        (
            {"scheme": "dirichlet", "clients": 200, "alpha": 0.01},
            "partition.scheme = dirichlet: The max number of attempts",
        ),
        (
            {"scheme": "shards", "clients": 400, "classes_per_client": 2},
            "clients with as many shards each need more than the 424",
        ),
        (
            {"scheme": "iid", "max_examples": 100, "validation_fraction": 0.001},
            "data.validation-fraction = 0.001: no image of 100 training images; use a larger fraction",
        ),
        (
            {"scheme": "exponential"},
            "federation.clients = 10: 424 private training images are so few that the smallest",
        ),
        (
            {"scheme": "distribution", "clients": 12},
            "partition.scheme = distribution needs a multiple of the 10 classes",
        ),
        ({"scheme": "distribution", "clients": 100}, "partition.scheme = distribution: There is insufficient samples"),
        (
            {"scheme": "inner-dirichlet", "alpha": 1e-5},
            "partition.alpha = 1e-05: the classes that a client draws run out",
        ),
    ],
    ids=[
        *("classes", "clients", "left-out", "dirichlet", "shards", "validation"),
        *("exponential", "multiple", "few", "inner-dirichlet"),
    ],
)
def test_impossible_divisions_say_why(arguments: dict, expected: str) -> None:
    with pytest.raises(FedShieldError) as caught:
        divide(**arguments)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_client_without_data_and_an_image_given_twice_are_errors() -> None:
    one, none = np.array([1]), np.array([], dtype=np.int64)
    with pytest.raises(FedShieldError, match="client 1 has no training image"):
        Partition((one, none), none, none, none)
    with pytest.raises(AssertionError, match="given away twice"):
        Partition((one, one), none, none, none)
    with pytest.raises(AssertionError, match="given away twice"):
        Partition((one,), none, none, one)


def test_a_kept_partition_is_the_same_and_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = (10, 7, "dirichlet", SchemeParameters(0.5, 2, 3))
    arguments = (*scheme, Amounts(0, 0.2, 0.4))
    made, first = partition(LABELS, *arguments), kept_partition(LABELS, *arguments)
    monkeypatch.setattr("common.data.partition.partition", lambda *_: pytest.fail("made again"))
    second = kept_partition(LABELS, *arguments)
    assert rows(first) == rows(second) == rows(made)
    monkeypatch.undo()
    assert rows(kept_partition(LABELS[::-1].copy(), *arguments)) != rows(made)
    less = (*scheme, Amounts(0, 0.2, 0.4, 0.25))
    held_out = kept_partition(LABELS, *less)
    assert len(held_out.validation) == 132
    assert rows(held_out) == rows(kept_partition(LABELS, *less)) == rows(partition(LABELS, *less))


def test_a_kept_partition_is_made_again_when_a_rule_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (10, 7, "iid", SchemeParameters(0.5, 2, 4), Amounts(0, 0.2, 0.4))
    kept_partition(LABELS, *arguments)
    sources: list[str] = []
    monkeypatch.setattr("common.data.partition.sources_digest", lambda *names: sources.extend(names) or b"changed")
    monkeypatch.setattr("common.data.partition.partition", lambda *_: Partition((LABELS[:1],), *[LABELS[:0]] * 3))
    assert len(kept_partition(LABELS, *arguments).shards) == 1
    rules = (partition, most_of_a_class, balanced_subset, class_limits, seed_for)
    assert {inspect.getsourcefile(rule) for rule in rules} <= {str(ROOT / name) for name in sources}
