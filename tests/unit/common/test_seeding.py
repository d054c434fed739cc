"""Seeds: always the same, and different wherever they are used."""

from common.seeding import rng_for, seed_for


def test_seeds_are_those_of_every_earlier_version() -> None:
    # A change here would silently change every published run.
    assert seed_for(1, "train", 3, 4) == 2811557766442433446
    assert rng_for(1, "cohort", 1).permutation(5).tolist() == [0, 2, 1, 3, 4]


def test_no_two_places_share_a_seed() -> None:
    seeds = {
        seed_for(seed, purpose, server_round, client)
        for seed in range(4)
        for purpose in ("train", "order")
        for server_round in range(12)
        for client in range(12)
    }
    assert len(seeds) == 4 * 2 * 12 * 12
    assert max(seeds) < 2**63
    assert seed_for(1, "train", 2, 3) != seed_for(1, "train", 3, 2)
