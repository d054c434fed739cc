"""Clients that lie together, for simulations: to find out which lies a strategy withstands.

The liars train honestly, know each other's updates, and all send the same lie. They change only weights: lies about
statistics of batch normalization would give them away, since the server checks those.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import torch
from flwr.app import Message, MessageType, RecordDict
from torch import Tensor

from common.config.schema import RunConfig
from common.messages.protocol import ARRAYS, CONFIG, PARTITION_ID, SERVER_ROUND
from common.messages.records import State, to_record, to_state
from common.seeding import rng_for, seed_for
from simulations.engine.executor import Executor, Job, Outcome


def choose_liars(clients: int, liars: int, seed: int) -> frozenset[int]:
    """Draw who lies; the same clients in all rounds."""
    return frozenset(rng_for(seed, "liars").permutation(clients)[:liars].tolist())


class ByzantineExecutor:
    """An executor some of whose clients lie.

    Args:
        executor: runs the clients.
        config: of the run.
    """

    def __init__(self, executor: Executor, config: RunConfig) -> None:
        self._executor = executor
        self._config = config
        self.liars = choose_liars(config.federation.clients, config.byzantine.clients, config.seed)

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        """Yield honest replies as they come, and the liars' at the end of a round."""
        jobs_of = {job.context.node_id: job for job in jobs}
        held: list[tuple[Message, RecordDict]] = []
        for reply, state in self._executor.run(jobs, timeout):
            job = jobs_of[reply.metadata.src_node_id]
            lies = int(job.context.node_config[PARTITION_ID]) in self.liars
            if lies and job.message.metadata.message_type == MessageType.TRAIN and not reply.has_error():
                held.append((reply, state))
            else:
                yield reply, state
        if held:
            yield from self._lie(held, jobs[0].message.content, len(jobs))

    def _lie(self, held: list[tuple[Message, RecordDict]], order: RecordDict, cohort: int) -> Iterator[Outcome]:
        before = to_state(order.array_records[ARRAYS])
        honest = [to_state(reply.content.array_records[ARRAYS]) for reply, _ in held]
        names = [name for name, value in before.items() if value.is_floating_point() and "running_" not in name]
        updates = torch.stack([torch.cat([(s[name] - before[name]).flatten() for name in names]) for s in honest])
        settings, number = self._config.byzantine, int(str(order.config_records[CONFIG][SERVER_ROUND]))
        generator = torch.Generator().manual_seed(seed_for(self._config.seed, "lie", number))
        lie = ATTACKS[settings.attack](updates, settings.strength, cohort, generator)
        for (reply, state), own in zip(held, honest, strict=True):
            reply.content.array_records[ARRAYS] = to_record({**own, **_apply(lie, before, names)})
            yield reply, state

    def close(self) -> None:
        """Close the executor."""
        self._executor.close()


def _apply(update: Tensor, before: State, names: Sequence[str]) -> State:
    parts = torch.split(update, [before[name].numel() for name in names])
    return {name: before[name] + part.view(before[name].shape) for name, part in zip(names, parts, strict=True)}


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

    Of n clients, m lie. They need s = ⌊n/2 + 1⌋ − m honest ones to be further off than they are, and so go
    z = Φ⁻¹((n − m − s) / (n − m)) standard deviations from the mean; both are estimated from their own updates.
    """
    liars = len(updates)
    supporters = cohort // 2 + 1 - liars
    z = NormalDist().inv_cdf((cohort - liars - supporters) / (cohort - liars))
    return updates.mean(dim=0) - strength * z * updates.std(dim=0, unbiased=False)


ATTACKS: dict[str, Callable[[Tensor, float, int, torch.Generator], Tensor]] = {
    "sign-flip": _sign_flip,
    "scaled": _scaled,
    "gaussian": _gaussian,
    "alie": _alie,
}
