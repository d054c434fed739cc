"""Every random number of a run comes from the run's seed and the place where it is drawn."""

import zlib

import numpy as np


def seed_for(seed: int, *path: str | int) -> int:
    """Derive an independent 63-bit seed for one place of a run.

    Because a seed depends on (seed, purpose, round, client) and on nothing that happened before, a resumed run, another
    engine or another number of workers draws the same numbers.

    Args:
        seed: the run's seed, >= 0.
        path: what the numbers are for, such as ``("train", round, client)``; integers >= 0.
    """
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    high, low = np.random.SeedSequence([seed, *words]).generate_state(2)
    return (int(high) << 31) ^ int(low)


def rng_for(seed: int, *path: str | int) -> np.random.Generator:
    """Return the NumPy generator of ``seed_for(seed, *path)``."""
    return np.random.default_rng(seed_for(seed, *path))
