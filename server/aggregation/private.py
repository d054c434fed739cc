"""Client-level differential privacy: clipped updates, their mean over a fixed number of clients, Gaussian noise.

DP-FedAvg (McMahan et al. 2018, arXiv 1710.06963, algorithm 1) with the noise at the server, and adaptive clipping by
Andrew et al. 2021 (arXiv 1905.03871). Flower's ``DifferentialPrivacyServerSide...Clipping`` do not fit:

- they hand the clipped replies on to FedAvg, which weighs by numbers of images: one client can then change the mean by
  more than the C / n that the noise is made for (with an accountant, Flower refuses such weights);
- a round with a failed client is not aggregated at all, or divided by fewer clients than the noise is made for;
- the noise is NumPy's global one: neither the seed nor a resumed run repeats it, and no secret is possible;
- counters become floats, and a variance of batch normalization may become negative;
- the adaptive one moves its norm the wrong way: see docs/privacy.md.

So only this arithmetic is our own; epsilon is dp-accounting's, see ``accounting``.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from common.config.tables import PrivacyConfig
from common.messages.records import LiveArray, record_of
from common.seeding import rng_for

PRIVACY = "privacy/"  # before the names of what the server keeps of this
RATE = 0.2  # η_C of Andrew et al.: how fast the clipping norm follows
_NORM = "clipping-norm"
_CLIPPED_SHARE = 1 / 20  # of Andrew et al.: noise on the count of short updates, relative to the clients of a round


class Privacy:
    """What makes a run private: its settings, where its noise comes from, and the clipping norm as it is now.

    Args:
        settings: ``privacy.*``, with a noise multiplier above 0.
        clients: n, asked in each round.
        seed: of the noise; None for noise that nobody can repeat.
        spent: epsilon after a round, from 1.
        fixed: names of arrays that stay as they are: those that never leave a client, and those that nobody trains.
        kept: what an earlier part of the run has kept.
    """

    def __init__(
        self,
        settings: PrivacyConfig,
        clients: int,
        seed: int | None,
        spent: Callable[[int], float],
        fixed: Collection[str] = (),
        kept: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.settings, self.clients, self.fixed = settings, clients, frozenset(fixed)
        self.clipping_norm = float((kept or {}).get(_NORM, settings.clipping_norm))
        self._seed, self._spent = seed, spent
        self._last: dict[str, Any] = {}

    def kept(self) -> dict[str, Tensor]:
        """Return what the rounds to come need: the clipping norm."""
        return {_NORM: torch.tensor(self.clipping_norm, dtype=torch.float64)}

    def mean(self, before: ArrayRecord, server_round: int) -> "PrivateMean":
        """Return what takes the replies of a round.

        Args:
            before: the global model of this round.
            server_round: from 1.
        """
        rng = np.random.default_rng() if self._seed is None else rng_for(self._seed, "privacy", server_round)
        return PrivateMean(self, before, rng)

    def after(self, short: int, clipped: int, rng: np.random.Generator) -> None:
        """Note how a round was clipped; with adaptive clipping, move the norm (Andrew et al., algorithm 1).

        Of the n clients, b say that their update is no longer than C, each as −1/2 or 1/2; who has not replied says 0.
        C ← C · exp(−η_C (b̃ − γ)), with b̃ = 1/2 + (Σ (b_i − 1/2) + N(0, σ_b²)) / n.

        Args:
            short: replies that were no longer than the norm.
            clipped: those that were longer.
            rng: of the round.
        """
        self._last = {_NORM: self.clipping_norm, "clipped": clipped}
        if target := self.settings.adaptive_clipping:
            told = (short - clipped) / 2 + rng.normal(0.0, count_noise(self.settings.noise_multiplier, self.clients))
            self.clipping_norm *= math.exp(-RATE * (0.5 + told / self.clients - target))

    def report(self, server_round: int) -> dict[str, Any]:
        """Return the part of ``metrics.jsonl`` of the round that was just averaged, from 1."""
        source = "secret" if self._seed is None else "seeded"
        return {"epsilon": self._spent(server_round), "delta": self.settings.delta, "noise": source, **self._last}


class PrivateMean:
    """w + (Σ clip(w_i − w) + N(0, (z_Δ C)²)) / n, in place of FedAvg's mean.

    clip(Δ) = Δ · min(1, C / ‖Δ‖), with the L2 norm over all floats, statistics of batch normalization among them. Every
    client counts alike, and one that was refused or silent counts as zero. So one client moves the sum by at most C. n
    is the number of clients that were asked, whoever has replied.

    Counters and fixed arrays stay as they were. A variance that the noise has made negative becomes 0; nothing that is
    done with the noisy mean costs privacy. Sums are float64. The noise is that of NumPy's generator, in floats: the
    gaps between floats (Mironov 2012) are not closed.

    Args:
        privacy: of the run.
        before: w.
        rng: of the round.
    """

    def __init__(self, privacy: Privacy, before: ArrayRecord, rng: np.random.Generator) -> None:
        self._privacy, self._rng = privacy, rng
        self._before = before
        self._sums: dict[str, NDArray[np.float64]] = {
            name: np.zeros(tuple(array.shape))
            for name, array in before.items()
            if array.dtype.startswith("float") and name not in privacy.fixed
        }
        self._short = self._clipped = 0

    def add(self, arrays: ArrayRecord, examples: float) -> None:
        """Add one client's arrays; how many images it has does not count."""
        updates = {name: self._values(arrays, name) - self._values(self._before, name) for name in self._sums}
        with np.errstate(over="ignore"):  # then the length is infinite, and nothing is left of the update
            length = math.sqrt(sum(float(np.vdot(update, update)) for update in updates.values()))
        norm = self._privacy.clipping_norm
        self._short, self._clipped = self._short + (length <= norm), self._clipped + (length > norm)
        for name, update in updates.items():
            self._sums[name] += update * min(1.0, norm / length if length else 1.0)

    def result(self) -> ArrayRecord:
        """Return the new global model."""
        privacy = self._privacy
        noise = update_noise(privacy.settings, privacy.clients) * privacy.clipping_norm
        model = record_of(self._before)
        for name, total in self._sums.items():
            noisy = total + noise * self._rng.standard_normal(total.shape)
            value = self._values(self._before, name) + noisy / privacy.clients
            if name.endswith("running_var"):
                value = np.maximum(value, 0)
            model[name] = LiveArray(np.asarray(value, dtype=self._before[name].dtype))
        privacy.after(self._short, self._clipped, self._rng)
        return model

    @staticmethod
    def _values(arrays: ArrayRecord, name: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = arrays[name].numpy().astype(np.float64)
        return values


def count_noise(noise_multiplier: float, clients: int) -> float:
    """Return σ_b: n / 20 as Andrew et al. advise; but at least z, as small rounds would leave nothing for the updates.

    Args:
        noise_multiplier: z of a whole round.
        clients: n, asked in a round.
    """
    return max(clients * _CLIPPED_SHARE, noise_multiplier)


def update_noise(settings: PrivacyConfig, clients: int) -> float:
    """Return z_Δ, the noise on the sum of the updates as a multiple of the clipping norm.

    Updates and count together shall cost what z costs: z_Δ = (z⁻² − (2 σ_b)⁻²)^(−1/2) (Andrew et al., theorem 1).

    Args:
        settings: ``privacy.*``.
        clients: n, asked in a round.
    """
    z = settings.noise_multiplier
    if settings.adaptive_clipping == 0:
        return z
    return float((z**-2 - (2 * count_noise(z, clients)) ** -2) ** -0.5)
