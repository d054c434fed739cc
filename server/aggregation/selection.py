"""Which clients train in a round: a function of the seed, the round and what the server knows of the clients."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.config.tables import FederationConfig
from common.errors import DeadEndError, FedShieldError
from common.seeding import rng_for
from common.user_code import explain_user_code, is_user_code, load_user_code

log = logging.getLogger("fedshield")

KEY = "federation.selection"


@dataclass(frozen=True)
class Candidates:
    """What a rule may choose by; all lists are by client number.

    Attributes:
        size: how many clients are to train.
        server_round: from 1.
        images: that each client trains on, the shared ones included.
        losses: mean training loss of each client in its last round that counted; None if it has had none.
    """

    size: int
    server_round: int
    images: Sequence[int]
    losses: Sequence[float | None]


Select = Callable[[Candidates, np.random.Generator], Sequence[int]]


def uniform(candidates: Candidates, rng: np.random.Generator) -> Sequence[int]:
    """Draw clients without replacement, each with the same probability."""
    chosen: list[int] = rng.permutation(len(candidates.images))[: candidates.size].tolist()
    return chosen


@dataclass(frozen=True)
class Cohort:
    """Who trains, and how the server chooses among them.

    Attributes:
        size: clients that train in a round.
        min_replies: valid replies below which a round ends the run.
        examples: images that each client trains on, shared ones included, by client number.
        seed: the run's seed.
        select: the rule by which they are chosen.
        away: clients that do not train if they are chosen; nobody takes their place.
    """

    size: int
    min_replies: int
    examples: tuple[int, ...]
    seed: int
    select: Select = uniform
    away: frozenset[int] = frozenset()

    def sample(self, server_round: int, losses: Sequence[float | None] = ()) -> list[int]:
        """Return the sorted clients of a round: a function of the seed, the round and the losses.

        Args:
            server_round: from 1.
            losses: of each client in its last round that counted, which a resumed run knows too; None for none.
        """
        rng, known = rng_for(self.seed, "cohort", server_round), losses or [None] * len(self.examples)
        chosen = self.select(Candidates(self.size, server_round, self.examples, known), rng)
        return sorted(set(chosen) - self.away)


def by_size(candidates: Candidates, rng: np.random.Generator) -> Sequence[int]:
    """Draw clients one after the other, without replacement, in proportion to their images."""
    return _by_size(candidates, rng, candidates.size)


def power_of_choice(candidates: Candidates, rng: np.random.Generator, among: int = 0) -> Sequence[int]:
    """Power of choice (Cho et al. 2020, arXiv 2010.01243): of d drawn clients, those with the highest loss.

    The d clients are drawn by size. This is the paper's variant π_rpow-d: it costs no pass and no message, since the
    loss of a client is that of its last round. A client that has had none comes first. Among equals, who is drawn
    first comes first.

    Args:
        candidates: all clients.
        rng: of the round.
        among: d; 0 = twice as many as are to train.
    """
    most = len(candidates.images)
    drawn = _by_size(candidates, rng, min(most, max(candidates.size, among or 2 * candidates.size)))
    losses = {client: np.inf if (loss := candidates.losses[client]) is None else loss for client in drawn}
    return sorted(drawn, key=lambda client: -losses[client])[: candidates.size]


def _by_size(candidates: Candidates, rng: np.random.Generator, count: int) -> list[int]:
    # The largest of u^(1 / n), as logarithms: Efraimidis and Spirakis 2006, algorithm A.
    keys = np.log(rng.random(len(candidates.images))) / np.maximum(candidates.images, 1e-9)
    chosen: list[int] = np.argsort(-keys, kind="stable")[:count].tolist()
    return chosen


def find_selection(settings: FederationConfig) -> Select:
    """Return the rule that ``federation.selection`` names.

    Raises:
        FedShieldError: the user's file is not there, or raises; later, it chooses other than it must.
    """
    name = settings.selection
    if name == "power-of-choice":
        return lambda candidates, rng: power_of_choice(candidates, rng, settings.selection_among)
    if not is_user_code(name):
        return SELECTIONS[name]
    own = load_user_code(KEY, name)

    def select(candidates: Candidates, rng: np.random.Generator) -> Sequence[int]:
        with explain_user_code(KEY, name):
            chosen = [int(client) for client in own(candidates, rng)]
        if len(set(chosen)) != candidates.size or len(chosen) != candidates.size or not _known(chosen, candidates):
            raise DeadEndError(
                f"{KEY} = {name}: chooses {chosen} in round {candidates.server_round}; return {candidates.size} "
                f"different clients, from 0 to {len(candidates.images) - 1}"
            )
        return chosen

    return select


def _known(chosen: Sequence[int], candidates: Candidates) -> bool:
    return all(0 <= client < len(candidates.images) for client in chosen)


def check_selection(settings: FederationConfig) -> None:
    """Check how many clients power of choice draws, and tell where a rule has nothing to choose.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    name, among, size, clients = settings.selection, settings.selection_among, settings.cohort, settings.clients
    if name == "power-of-choice" and among and not size <= among <= clients:
        raise FedShieldError(
            f"federation.selection-among = {among}: {size} of {clients} clients train in a round; set it from {size} "
            f"to {clients}, or to 0"
        )
    if name != "uniform" and size == clients:
        log.info(
            "%s = %s has no effect: all %d clients train in each round (federation.fraction = %g)",
            *(KEY, name, clients, settings.fraction),
        )


SELECTIONS: dict[str, Select] = {"uniform": uniform, "size": by_size, "power-of-choice": power_of_choice}
