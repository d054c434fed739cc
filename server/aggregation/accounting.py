"""How much of client-level differential privacy a run spends: epsilon at ``privacy.delta``, by dp-accounting.

Two federations are neighbors if one client's replies count in the first and count as zero in the second. A round in
which that client is asked is a Gaussian mechanism with noise multiplier z: it has Rényi divergence α / (2 z²) of order
α (Mironov 2017, arXiv 1702.07476, corollary 3), and divergences add up over rounds (proposition 1). The accountant
turns the sum into epsilon (Canonne et al. 2020, arXiv 2004.00010, proposition 12).

Sampling amplifies privacy only where nobody knows who was drawn. Here who trains follows from the seed, which every
client has. So no amplification is claimed. For the same reason a round costs only the clients that are asked in it: it
is made without the others' data. Epsilon is that of the client that was asked most often so far.
"""

import math
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.config.schema import RunConfig
from common.config.tables import FederationConfig
from common.errors import FedShieldError
from common.paths import to_install
from server.aggregation.selection import Cohort


def epsilon(config: RunConfig, rounds: int) -> float:
    """Return what the models of so many rounds have cost the client that was asked most often.

    Args:
        config: of the run; its noise multiplier is above 0.
        rounds: finished ones, in [0, ``federation.rounds``].

    Returns:
        Epsilon, 0 or more, at ``privacy.delta``.

    Raises:
        FedShieldError: dp-accounting is not installed.
    """
    times = _turns(config.federation, config.seed, max(rounds, config.federation.rounds))[rounds]
    return _epsilon(config.privacy.noise_multiplier, times, config.privacy.delta)


def planned_rounds(config: RunConfig) -> int:
    """Return how many rounds a run has: those asked for, or as many as ``privacy.epsilon-max`` allows.

    Raises:
        FedShieldError: dp-accounting is needed and not installed.
    """
    privacy, rounds = config.privacy, config.federation.rounds
    if privacy.noise_multiplier == 0 or privacy.epsilon_max == 0:
        return rounds
    return bisect_right(range(1, rounds + 1), privacy.epsilon_max, key=lambda number: epsilon(config, number))


def check_spent(config: RunConfig, path: Path, completed_rounds: int) -> None:
    """Refuse to go on with a run that has spent more than ``privacy.epsilon-max``.

    Args:
        config: with which it is to go on.
        path: of its directory.
        completed_rounds: of the run.

    Raises:
        FedShieldError: it has.
    """
    limit = config.privacy.epsilon_max
    if not (config.privacy.noise_multiplier and limit and completed_rounds):
        return
    if (spent := epsilon(config, completed_rounds)) > limit:
        raise FedShieldError(
            f"privacy.epsilon-max = {limit:g}: {path} has spent epsilon {spent:.3g} in its {completed_rounds} rounds; "
            "raise it to that or more"
        )


def sufficient_noise(config: RunConfig, rounds: int) -> float:
    """Return a noise multiplier, of three digits, with which so many rounds stay within ``privacy.epsilon-max``.

    Args:
        config: of the run; ``privacy.epsilon-max`` is above 0.
        rounds: 1 or more.
    """
    from dp_accounting import GaussianDpEvent, calibrate_dp_mechanism, rdp

    most = calibrate_dp_mechanism(rdp.RdpAccountant, GaussianDpEvent, config.privacy.epsilon_max, config.privacy.delta)
    times = _turns(config.federation, config.seed, rounds)[rounds]
    noise = float(most) * math.sqrt(times)  # T rounds with z are one with z / √T
    digit = 10.0 ** (math.floor(math.log10(noise)) - 2)
    return float(f"{math.ceil(noise / digit) * digit:.3g}")


@lru_cache(maxsize=4)
def _turns(settings: FederationConfig, seed: int, rounds: int) -> tuple[int, ...]:
    """Return how often the client that is asked most often has been, after 0, 1, ... ``rounds`` rounds."""
    if settings.cohort == settings.clients:
        return tuple(range(rounds + 1))
    cohort = Cohort(settings.cohort, settings.min_replies, (0,) * settings.clients, seed)
    asked, most = np.zeros(settings.clients, int), [0]
    for number in range(1, rounds + 1):
        asked[cohort.sample(number)] += 1
        most.append(int(asked.max()))
    return tuple(most)


@lru_cache(maxsize=4096)
def _epsilon(noise_multiplier: float, times: int, delta: float) -> float:
    if times == 0:
        return 0.0
    try:
        from dp_accounting import GaussianDpEvent, rdp
    except ImportError as error:
        raise FedShieldError(
            f"privacy.noise-multiplier = {noise_multiplier:g}: needs dp-accounting; run: {to_install('dp')}, or set "
            "privacy.noise-multiplier=0"
        ) from error
    return float(rdp.RdpAccountant().compose(GaussianDpEvent(noise_multiplier), times).get_epsilon(delta))
