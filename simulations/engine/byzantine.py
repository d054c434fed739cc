"""Clients that lie together, for simulations: to find out which lies a strategy withstands.

The liars train honestly, know each other's updates (for some lies also the honest ones), and all send the same lie; see
``simulations.engine.lies``. Or each trains on something else and sends what it has learned; see ``client.poison``.

They lie about weights alone, and their statistics of batch normalization are those of their training: the opposite of a
variance would only give them away, since the server checks it. ``benchmarks.update_limit`` measures what a lie about
statistics does.
"""

import logging
from collections.abc import Iterator, Sequence

import torch
from flwr.app import Context, MessageType, RecordDict
from torch import Tensor

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.messages.protocol import ARRAYS, CONFIG, LIES, PARTITION_ID, SERVER_ROUND
from common.messages.records import State, to_record, to_state
from common.seeding import rng_for, seed_for
from simulations.engine.executor import Executor, Job, Outcome
from simulations.engine.lies import ATTACKS, FEWEST_FOR_ALIE, KNOW_HONEST, TRAINED, deviations

log = logging.getLogger("fedshield")


def check_liars(config: RunConfig) -> None:
    """Refuse liars that could do nothing in any round; tell of those that are too few to do harm.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    if not config.byzantine.clients or config.byzantine.attack != "alie":
        return
    if config.byzantine.clients == 1:
        raise FedShieldError(
            "byzantine.clients = 1: byzantine.attack = alie needs two, whose updates tell how much clients differ; "
            "raise it, or choose another attack"
        )
    if config.federation.cohort < FEWEST_FOR_ALIE:
        raise FedShieldError(
            f"federation.fraction = {config.federation.fraction:g}: byzantine.attack = alie needs {FEWEST_FOR_ALIE} "
            f"clients a round, there are {config.federation.cohort}; raise it, or choose another attack"
        )
    most = min(config.byzantine.clients, config.federation.cohort)
    if deviations(most, config.federation.cohort) <= 0:
        log.warning(
            "byzantine.clients = %d: with byzantine.attack = alie, %d of %d clients of a round send the mean of their "
            "updates; by its authors' formula, so few liars must not go further to stay hidden",
            *(config.byzantine.clients, most, config.federation.cohort),
        )


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
        """Yield honest replies as they come, and the liars' at the end of a round; all then, if the liars know all."""
        if self._config.byzantine.attack in TRAINED:
            jobs = [self._misled(job) for job in jobs]
        jobs_of = {job.context.node_id: job for job in jobs}
        held: list[Outcome] = []
        seen: list[Outcome] = []
        for reply, state in self._executor.run(jobs, timeout):
            job = jobs_of[reply.metadata.src_node_id]
            trained = _trains(job) and not reply.has_error()
            if trained and int(job.context.node_config[PARTITION_ID]) in self.liars:
                held.append((reply, state))
            elif trained and self._config.byzantine.attack in KNOW_HONEST:
                seen.append((reply, state))
            else:
                yield reply, state
        if held:  # in the order of the jobs, whoever was done first: a sum has other bits in another order
            place = {job.context.node_id: index for index, job in enumerate(jobs)}
            for replies in (held, seen):
                replies.sort(key=lambda outcome: place[outcome[0].metadata.src_node_id])
            yield from self._lie(held, seen, jobs[0].message.content, len(jobs))
        yield from seen

    def _misled(self, job: Job) -> Job:
        """Tell a client that it is to lie, if it is one of the liars."""
        told, context = job.context.node_config, job.context
        if not _trains(job) or int(told[PARTITION_ID]) not in self.liars:
            return job
        told = {**told, LIES: True}
        return Job(job.message, Context(context.run_id, context.node_id, told, context.state, context.run_config))

    def _lie(self, held: list[Outcome], seen: list[Outcome], order: RecordDict, cohort: int) -> Iterator[Outcome]:
        """Yield the liars' replies with the lie in them; it is made of ``seen``, or else of their own updates."""
        before = to_state(order.array_records[ARRAYS])
        honest = [to_state(reply.content.array_records[ARRAYS]) for reply, _ in held]
        known = [to_state(reply.content.array_records[ARRAYS]) for reply, _ in seen] or honest
        names = [name for name, value in before.items() if value.is_floating_point() and "running_" not in name]
        updates = torch.stack([torch.cat([(s[name] - before[name]).flatten() for name in names]) for s in known])
        settings, number = self._config.byzantine, int(str(order.config_records[CONFIG][SERVER_ROUND]))
        generator = torch.Generator().manual_seed(seed_for(self._config.seed, "lie", number))
        if settings.attack == "alie":
            _tell_limits(number, len(held), cohort)
        if settings.attack in TRAINED:
            lies = [*(settings.strength * updates)]
        else:
            lies = [ATTACKS[settings.attack](updates, settings.strength, cohort, generator)] * len(held)
        for (reply, state), own, lie in zip(held, honest, lies, strict=True):
            reply.content.array_records[ARRAYS] = to_record({**own, **_apply(lie, before, names)})
            yield reply, state

    def close(self) -> None:
        """Close the executor."""
        self._executor.close()


def _trains(job: Job) -> bool:
    return job.message.metadata.message_type == MessageType.TRAIN


def _apply(update: Tensor, before: State, names: Sequence[str]) -> State:
    parts = torch.split(update, [before[name].numel() for name in names])
    return {name: before[name] + part.view(before[name].shape) for name, part in zip(names, parts, strict=True)}


def _tell_limits(server_round: int, liars: int, cohort: int) -> None:
    """Tell where chance has chosen a cohort in which ALIE is not what its authors describe."""
    if liars == 1:
        log.info("round %d: one client lies; with byzantine.attack = alie it sends its honest update", server_round)
    elif liars > cohort // 2:
        log.info(
            "round %d: %d of %d clients lie; byzantine.attack = alie has no limit for so many: as far as %d would go",
            *(server_round, liars, cohort, cohort // 2),
        )
