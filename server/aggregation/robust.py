"""Flower's robust strategies in place of the mean: some of the clients may send what they like.

The replies that they get are checked. Counters are averaged apart, since Flower would turn them into floats that
outweigh everything else in the distances of Krum.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum

from common.config.tables import StrategyConfig
from common.errors import FedShieldError
from common.messages.protocol import ARRAYS, METRICS, NUM_EXAMPLES
from common.messages.records import to_record, to_state
from server.aggregation.mean import RunningMean

log = logging.getLogger("fedshield")


@dataclass(frozen=True)
class Rule:
    """One of Flower's strategies.

    Attributes:
        make: called with the numbers of replies and of liars among them; returns the strategy.
        needs: number of liars -> number of replies that it needs.
    """

    make: Callable[[int, int], FedAvg]
    needs: Callable[[int], int]


class RobustMean:
    """Keeps the replies of a round, and lets one of Flower's strategies make one model of them.

    Args:
        name: a key of ``RULES``.
        malicious: how many of the clients of a round are expected to lie.
        expected: the images of all clients that were asked.
    """

    def __init__(self, name: str, malicious: int, expected: int) -> None:
        self._name, self._malicious = name, malicious
        self._counters = RunningMean(expected)
        self._replies: list[Message] = []
        self._names: list[str] = []

    def add(self, arrays: ArrayRecord, examples: int) -> None:
        """Add one client's weights, those of ``examples`` images."""
        self._names = list(arrays)
        floats, counters = ArrayRecord(), ArrayRecord()
        for name, array in arrays.items():
            (floats if array.dtype.startswith("float") else counters)[name] = array
        self._counters.add(counters, examples)
        content = RecordDict({ARRAYS: floats, METRICS: MetricRecord({NUM_EXAMPLES: examples})})
        self._replies.append(Message(content, 1, MessageType.TRAIN))

    def result(self) -> ArrayRecord:
        """Return the strategy's model; if replies are missing, it tolerates fewer liars.

        Missing replies count as liars: the proofs are about clients that fail in any way, and about at most
        ``malicious`` of them.

        Raises:
            FedShieldError: too few replies even without a liar.
        """
        rule, replies, malicious = RULES[self._name], len(self._replies), self._malicious
        while malicious and replies < rule.needs(malicious):
            malicious -= 1
        if malicious < self._malicious:
            log.warning(
                "%d valid replies: strategy.name = %s tolerates %d liars among them, not strategy.malicious = %d",
                *(replies, self._name, malicious, self._malicious),
            )
        if replies < rule.needs(malicious):
            raise FedShieldError(
                f"strategy.name = {self._name} needs {rule.needs(malicious)} valid replies, there are {replies}; raise "
                "federation.min-fraction, or choose another strategy"
            )
        arrays, _ = rule.make(replies, malicious).aggregate_train(0, self._replies)
        if arrays is None:
            raise FedShieldError(f"strategy.name = {self._name}: Flower's strategy gave no model for {replies} replies")
        state = to_state(arrays) | to_state(self._counters.result())
        return to_record({name: state[name] for name in self._names})


def check_strategy(settings: StrategyConfig, cohort: int) -> None:
    """Refuse a strategy for more liars than it tolerates among ``cohort`` clients of a round.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    if settings.name == "fedavg":
        return
    needed = RULES[settings.name].needs(settings.malicious)
    if cohort < needed:
        raise FedShieldError(
            f"strategy.malicious = {settings.malicious}: strategy.name = {settings.name} needs {needed} clients a "
            f"round for this, there are {cohort}; lower strategy.malicious, or choose another strategy"
        )


RULES: dict[str, Rule] = {
    # Blanchard et al. 2017 (arXiv 1703.02757): the reply nearest to its neighbors, or the mean of all but f such.
    "krum": Rule(lambda n, f: Krum(num_malicious_nodes=f), lambda f: 2 * f + 3),
    "multi-krum": Rule(lambda n, f: MultiKrum(num_malicious_nodes=f, num_nodes_to_select=n - f), lambda f: 2 * f + 3),
    # El Mhamdi et al. 2018 (arXiv 1802.07927)
    "bulyan": Rule(lambda n, f: Bulyan(num_malicious_nodes=f), lambda f: 4 * f + 3),
    # Yin et al. 2018 (arXiv 1803.01498): in each weight, without the f smallest and the f largest, or the median.
    # Flower takes a share, and rounds the resulting number down.
    "trimmed-mean": Rule(lambda n, f: FedTrimmedAvg(beta=(f + 0.5) / n if f else 0.0), lambda f: 2 * f + 2),
    "median": Rule(lambda n, f: FedMedian(), lambda f: 2 * f + 1),
}
