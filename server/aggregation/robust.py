"""Flower's robust strategies in place of the mean: some of the clients may send what they like.

The replies that they get are checked. Krum and Bulyan compare weights alone, by how far each client has moved them.
Between whole replies up to three quarters of the squared distance are statistics of batch normalization, in which a lie
about the weights would be lost. Counters are averaged apart: as floats they would outweigh everything else.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg
from flwr.serverapp.strategy.multikrum import select_multikrum
from numpy.typing import NDArray

from common.config.tables import StrategyConfig
from common.errors import FedShieldError
from common.messages.protocol import ARRAYS, METRICS, NUM_EXAMPLES
from common.messages.records import LiveArray, record_of, to_record, to_state
from server.aggregation.mean import RunningMean

log = logging.getLogger("fedshield")

Selection = Callable[[list[RecordDict], int, int], list[RecordDict]]  # replies, liars, number to select


@dataclass(frozen=True)
class WholeReplies:
    """The mean of the replies that have the best scores of Krum.

    Attributes:
        needs: number of liars -> number of replies that it needs.
        count: numbers of replies and of liars among them -> number of replies that it averages.
    """

    needs: Callable[[int], int]
    count: Callable[[int, int], int]


@dataclass(frozen=True)
class EachValue:
    """One of Flower's strategies that look at each value by itself.

    Attributes:
        needs: number of liars -> number of replies that it needs.
        make: called with the numbers of replies and of liars, and with how to choose by Krum's scores.
    """

    needs: Callable[[int], int]
    make: Callable[[int, int, Selection], FedAvg]


class RobustMean:
    """Keeps the replies of a round, and makes one model of them by Flower's code.

    Args:
        name: a key of ``RULES``.
        malicious: how many of the clients of a round are expected to lie.
        model: the global model that they were trained from.
        weights: names of its arrays that are trained; its other floats are statistics.
    """

    def __init__(self, name: str, malicious: int, model: ArrayRecord, weights: Collection[str]) -> None:
        self._name, self._malicious, self._model, self._weights = name, malicious, model, weights
        self._replies: list[ArrayRecord] = []
        self._examples: list[float] = []

    def add(self, arrays: ArrayRecord, examples: float) -> None:
        """Add one client's weights, those of ``examples`` images."""
        self._replies.append(arrays)
        self._examples.append(examples)

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
        if isinstance(rule, WholeReplies):
            return self._mean_of(self._nearest(malicious, rule.count(replies, malicious)), malicious)
        return self._value_by_value(rule.make(replies, malicious, self._select))

    def _nearest(self, malicious: int, count: int) -> list[int]:
        """Return the places of the replies with the best scores of Krum, the best first.

        Updates are compared, not models: their distances are the same, but not lost in the rounding of long weights.
        """
        updates = [LiveArray(self._update(reply)) for reply in self._replies]
        contents = [RecordDict({ARRAYS: record_of({"update": update})}) for update in updates]
        with np.errstate(over="ignore", invalid="ignore"):  # a lie can be longer than a float tells: then it is far
            chosen = select_multikrum(contents, malicious, count)
        places = {id(content): place for place, content in enumerate(contents)}
        return [places[id(content)] for content in chosen]

    def _update(self, reply: ArrayRecord) -> NDArray[Any]:
        names = [name for name in self._model if name in self._weights]
        return np.concatenate([(reply[name].numpy() - self._model[name].numpy()).ravel() for name in names])

    def _select(self, contents: list[RecordDict], malicious: int, count: int) -> list[RecordDict]:
        """Choose as ``select_multikrum`` does, by weights alone; ``contents`` are all replies."""
        return [contents[place] for place in self._nearest(malicious, count)]

    def _mean_of(self, chosen: Sequence[int], malicious: int) -> ArrayRecord:
        """Return the mean of whole replies, with statistics no further out than an honest client's.

        Who has honest weights can still lie about statistics. So each value of them is kept between the smallest and
        the largest of all replies but the ``malicious`` most extreme ones on either side.
        """
        names = [n for n, array in self._model.items() if n not in self._weights and array.dtype.startswith("float")]
        ordered = {name: np.sort([reply[name].numpy() for reply in self._replies], axis=0) for name in names}
        mean = RunningMean(sum(self._examples[place] for place in chosen))
        for place in chosen:
            reply = record_of(self._replies[place])
            for name, values in ordered.items():
                inside = np.clip(reply[name].numpy(), values[malicious], values[-1 - malicious])
                reply[name] = LiveArray(np.asarray(inside))
            mean.add(reply, self._examples[place])
        return mean.result()

    def _value_by_value(self, strategy: FedAvg) -> ArrayRecord:
        """Return what Flower's strategy makes of all floats, and the mean of the counters."""
        counters, messages = RunningMean(sum(self._examples)), []
        for reply, examples in zip(self._replies, self._examples, strict=True):
            floats, others = ArrayRecord(), ArrayRecord()
            for name, array in self._model.items():
                (floats if array.dtype.startswith("float") else others)[name] = reply[name]
            counters.add(others, examples)
            content = RecordDict({ARRAYS: floats, METRICS: MetricRecord({NUM_EXAMPLES: examples})})
            messages.append(Message(content, 1, MessageType.TRAIN))
        arrays, _ = strategy.aggregate_train(0, messages)
        if arrays is None:
            raise FedShieldError(
                f"strategy.name = {self._name}: Flower's strategy gave no model for {len(messages)} replies"
            )
        state = to_state(arrays) | to_state(counters.result())
        return to_record({name: state[name] for name in self._model})


def check_strategy(settings: StrategyConfig, cohort: int) -> None:
    """Refuse a strategy for more liars than it tolerates among ``cohort`` clients of a round.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    if settings.name not in RULES:
        return
    needed = RULES[settings.name].needs(settings.malicious)
    if cohort < needed:
        raise FedShieldError(
            f"strategy.malicious = {settings.malicious}: strategy.name = {settings.name} needs {needed} clients a "
            f"round for this, there are {cohort}; lower strategy.malicious, or choose another strategy"
        )


RULES: dict[str, WholeReplies | EachValue] = {
    # Blanchard et al. 2017 (arXiv 1703.02757): the reply nearest to its neighbors, or the mean of all but f such.
    "krum": WholeReplies(lambda f: 2 * f + 3, lambda n, f: 1),
    "multi-krum": WholeReplies(lambda f: 2 * f + 3, lambda n, f: n - f),
    # El Mhamdi et al. 2018 (arXiv 1802.07927)
    "bulyan": EachValue(lambda f: 4 * f + 3, lambda n, f, select: Bulyan(num_malicious_nodes=f, selection_rule=select)),
    # Yin et al. 2018 (arXiv 1803.01498): in each weight, without the f smallest and the f largest, or the median.
    # Flower takes a share, and rounds the resulting number down.
    "trimmed-mean": EachValue(
        lambda f: 2 * f + 2, lambda n, f, select: FedTrimmedAvg(beta=(f + 0.5) / n if f else 0.0)
    ),
    "median": EachValue(lambda f: 2 * f + 1, lambda n, f, select: FedMedian()),
}
