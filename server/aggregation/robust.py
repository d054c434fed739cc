"""Robust strategies in place of the mean, most of them Flower's: some of the clients may send what they like.

The replies that they get are checked. Krum and Bulyan compare weights alone, by how far each client has moved them.
Between whole replies up to three quarters of the squared distance are statistics of batch normalization, in which a lie
about the weights would be lost. Counters are averaged apart: as floats they would outweigh everything else.
"""

import logging
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.multikrum import select_multikrum
from numpy.typing import NDArray

from common.errors import FedShieldError
from common.messages.protocol import ARRAYS, METRICS, NUM_EXAMPLES
from common.messages.records import LiveArray, record_of, to_record, to_state
from server.aggregation.mean import RunningMean
from server.aggregation.root import Root
from server.aggregation.rules import RULES, ByPool, Shares, WholeReplies
from server.aggregation.shares import PRE, Floats, greedy, inner_products, trusted

log = logging.getLogger("fedshield")


class RobustMean:
    """Keeps the replies of a round, and makes one model of them.

    Args:
        name: a key of ``RULES``.
        malicious: how many of the clients of a round are expected to lie.
        model: the global model that they were trained from.
        weights: names of its arrays that are trained; its other floats are statistics.
        pre: ``none``, or a key of ``PRE``: what is done with the replies first.
        radius: of centered clipping; 0 for the median distance.
        root: for the rules that judge by the server's own images.
        server_round: from 1.
    """

    def __init__(
        self,
        name: str,
        malicious: int,
        model: ArrayRecord,
        weights: Collection[str],
        pre: str = "none",
        radius: float = 0.0,
        root: Root | None = None,
        server_round: int = 1,
    ) -> None:
        self._name, self._malicious, self._model, self._weights = name, malicious, model, weights
        self._pre, self._radius, self._root, self._round = pre, radius, root, server_round
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
        rule, malicious = RULES[self._name], self._tolerated()
        if self._pre != "none":
            self._replies = self._combined(PRE[self._pre](self._products(), malicious), malicious)
        if isinstance(rule, Shares):
            shares = rule.give(self._products(), np.array(self._examples), self._radius)
            return self._combined(shares[None], malicious)[0]
        if isinstance(rule, ByPool):
            return self._combined(self._by_pool(rule, malicious)[None], malicious)[0]
        if isinstance(rule, WholeReplies):
            return self._mean_of(self._nearest(malicious, rule.count(len(self._replies), malicious)), malicious)
        return self._value_by_value(rule.make(len(self._replies), malicious, self._select))

    def _tolerated(self) -> int:
        """Return how many liars the strategy tolerates among the replies that are there."""
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
        return malicious

    def _products(self, *more: ArrayRecord) -> Floats:
        names = [name for name in self._model if name in self._weights]
        return inner_products([*self._replies, *more], self._model, names)

    def _by_pool(self, rule: ByPool, malicious: int) -> Floats:
        """Return the share of each update, by the server's own images."""
        root = self._root
        if root is None:
            raise FedShieldError(f"strategy.name = {self._name}: the server has no images of its own")
        if rule.trains:
            # As in the paper, the server takes as many steps as a client: each update becomes as long as its own.
            images = int(np.median(self._examples))
            return trusted(self._products(root.train(self._model, self._round, images)))
        return greedy(lambda shares: root.loss(self._combined(shares[None], malicious)[0]), len(self._replies))

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

    def _within(self, malicious: int) -> list[ArrayRecord]:
        """Return the replies with statistics no further out than an honest client's.

        Who has honest weights can still lie about statistics. So each value of them is kept between the smallest and
        the largest of all replies but the ``malicious`` most extreme ones on either side.
        """
        names = [n for n, array in self._model.items() if n not in self._weights and array.dtype.startswith("float")]
        inside = [record_of(reply) for reply in self._replies]
        for name in names:
            values = np.sort([reply[name].numpy() for reply in self._replies], axis=0)
            for reply in inside:
                kept = np.clip(reply[name].numpy(), values[malicious], values[-1 - malicious])
                reply[name] = LiveArray(np.asarray(kept))
        return inside

    def _mean_of(self, chosen: Sequence[int], malicious: int) -> ArrayRecord:
        """Return the mean of whole replies."""
        inside, mean = self._within(malicious), RunningMean(sum(self._examples[place] for place in chosen))
        for place in chosen:
            mean.add(inside[place], self._examples[place])
        return mean.result()

    def _combined(self, shares: Floats, malicious: int) -> list[ArrayRecord]:
        """Return a model for each row of shares, [k,n]: the global one, and that much of each update.

        Statistics and counters are means, to which each reply contributes in the same proportion; where nobody does,
        they stay as they are.
        """
        inside, models = self._within(malicious), [ArrayRecord() for _ in shares]
        total = shares.sum(axis=1, keepdims=True)
        means = np.where(total > 0, shares / np.where(total > 0, total, 1), 0)
        for name, array in self._model.items():
            before = array.numpy().astype(np.float64)
            changes = np.stack([(reply[name].numpy() - before).ravel() for reply in inside])
            found = before + ((shares if name in self._weights else means) @ changes).reshape(-1, *before.shape)
            rounded = found if array.dtype.startswith("float") else found.round()
            for model, value in zip(models, rounded.astype(array.dtype), strict=True):
                model[name] = LiveArray(np.asarray(value))
        return models

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
