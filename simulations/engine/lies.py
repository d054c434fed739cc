"""What clients that lie together send in place of their updates."""

from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

FEWEST_FOR_ALIE = 3  # clients of a round, of which one may lie and one may be further off


def _sign_flip(updates: Tensor, strength: float, cohort: int, generator: torch.Generator) -> Tensor:
    """The opposite of the liars' mean update."""
    return -strength * updates.mean(dim=0)


def _scaled(updates: Tensor, strength: float, cohort: int, generator: torch.Generator) -> Tensor:
    """Their mean update, scaled up to outweigh the others (Bagdasaryan et al. 2020, arXiv 1807.00459)."""
    return strength * updates.mean(dim=0)


def _gaussian(updates: Tensor, strength: float, cohort: int, generator: torch.Generator) -> Tensor:
    """Noise, ``strength`` times as long as an honest update (Blanchard et al. 2017, arXiv 1703.02757)."""
    size = updates.mean(dim=0).square().mean().sqrt()
    return strength * size * torch.randn(updates.shape[1], generator=generator)


def _alie(updates: Tensor, strength: float, cohort: int, generator: torch.Generator) -> Tensor:
    """A little is enough (Baruch et al. 2019, arXiv 1902.06156, algorithm 3): as far from the mean as honest ones.

    The mean and the standard deviation are estimated from the liars' own updates.
    """
    return updates.mean(dim=0) - strength * deviations(len(updates), cohort) * updates.std(dim=0, unbiased=False)


def deviations(liars: int, cohort: int) -> float:
    """Return how many standard deviations from the mean ALIE goes.

    Of n clients m lie. They need s = ⌊n/2 + 1⌋ − m honest ones to be further off than they are, and so go
    z = Φ⁻¹((n − m − s) / (n − m)). From m = ⌊n/2⌋ + 1 on they need none, and the formula sets no limit: they go as far
    as ⌊n/2⌋ liars would. Of one or two clients, no honest one is nearer to the mean: 0.

    Args:
        liars: m, 0 or more; with ``federation.fraction`` below 1 it differs from round to round.
        cohort: n, clients of the round, 1 or more.
    """
    if cohort < FEWEST_FOR_ALIE:
        return 0.0
    liars = min(liars, cohort // 2)
    further = cohort // 2 + 1 - liars
    return NormalDist().inv_cdf((cohort - liars - further) / (cohort - liars))


def _ipm(updates: Tensor, strength: float, cohort: int, generator: torch.Generator) -> Tensor:
    """Inner product manipulation (Xie et al. 2020, arXiv 1903.03936): −ε times the mean μ of the honest updates.

    A small ε does not turn the mean around, but may be near enough for Krum; a large one turns the mean around.
    """
    return -strength * updates.mean(dim=0)


def _min_max(updates: Tensor, strength: float, cohort: int, generator: torch.Generator) -> Tensor:
    """Min-Max (Shejwalkar and Houmansadr 2021, NDSS): μ + γ p, no further from any honest update than two of them are.

    p is minus the standard deviation of each weight, one of the paper's three directions. γ is the largest with
    max ‖μ + γ p − uᵢ‖ <= max ‖uᵢ − uⱼ‖. The authors search for it; here the quadratic equation of each i is solved.
    """
    mean, away = updates.mean(dim=0), -updates.std(dim=0, unbiased=False)
    apart, square = mean - updates, away.square().sum()
    if square == 0:
        return mean
    slope = apart @ away
    room = _distances(updates).square().max() - apart.square().sum(dim=1)
    gamma = (((slope.square() + square * room).clamp(min=0).sqrt() - slope) / square).min()
    return mean + strength * gamma * away


def _min_sum(updates: Tensor, strength: float, cohort: int, generator: torch.Generator) -> Tensor:
    """Min-Sum, of the same paper: γ is the largest with Σ ‖μ + γ p − uᵢ‖² <= max over j of Σ ‖uᵢ − uⱼ‖².

    Since Σ (μ − uᵢ) = 0, the left side is Σ ‖μ − uᵢ‖² + n γ² ‖p‖². The authors' code takes the smallest such sum where
    the paper takes the largest.
    """
    mean, away = updates.mean(dim=0), -updates.std(dim=0, unbiased=False)
    if (square := away.square().sum()) == 0:
        return mean
    room = _distances(updates).square().sum(dim=1).max() - (mean - updates).square().sum()
    return mean + strength * (room / (len(updates) * square)).clamp(min=0).sqrt() * away


def _mimic(updates: Tensor, strength: float, cohort: int, generator: torch.Generator) -> Tensor:
    """Mimic (Karimireddy et al. 2022, arXiv 2006.09365): all liars send what one honest client sends.

    So this client counts too much, and a rule that looks for a majority finds one. It is the client that is furthest
    from the mean along the direction z in which the honest updates differ most: that with the largest |z · (uᵢ − μ)|.
    The paper learns z over the first rounds and then keeps the client. Here each round chooses by itself, so that a
    resumed run gives the same bits.
    """
    apart = (updates - updates.mean(dim=0)).double()
    directions = torch.linalg.eigh(apart @ apart.T).eigenvectors  # of increasing eigenvalues
    return strength * updates[int(directions[:, -1].abs().argmax())]


def _distances(updates: Tensor) -> Tensor:
    """Return the distance of each two, [n,n]; not by products, which lose the short ones."""
    return torch.cdist(updates, updates, compute_mode="donot_use_mm_for_euclid_dist")


Lie = Callable[[Tensor, float, int, torch.Generator], Tensor]
"""(updates [n,D], strength, clients of the round, random numbers) -> the update that every liar sends, [D]."""

ATTACKS: dict[str, Lie] = {
    "sign-flip": _sign_flip,
    "scaled": _scaled,
    "gaussian": _gaussian,
    "alie": _alie,
    "ipm": _ipm,
    "min-max": _min_max,
    "min-sum": _min_sum,
    "mimic": _mimic,
}
TRAINED = frozenset({"label-flip", "backdoor", "pseudo-robust"})  # the client lies by its training; see client.poison
KNOW_HONEST = frozenset({"ipm", "min-max", "min-sum", "mimic"})  # made of the honest updates, the others of the liars'
