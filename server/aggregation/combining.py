"""From the valid replies of a round to the new model, as the federation's method wants it."""

from collections.abc import Collection

from flwr.app import ArrayRecord

from common.messages.records import to_record, to_state
from common.methods.checks import check_arrays, check_shares
from common.methods.method import Arrays, Method, Reply
from server.aggregation.mean import RunningMean
from server.aggregation.private import PrivateMean
from server.aggregation.reply_checks import Checked
from server.aggregation.robust import RobustMean
from server.aggregation.server_optimizer import ServerOptimizer
from server.aggregation.whole_round import Received, Rule


class Combined:
    """Takes the replies one by one, in client order; each can be freed at once, unless the method needs all of them.

    Args:
        method: of the federation.
        mean: of the strategy; where the method weighs replies by more than their images, it is replaced.
        before: the global model of this round.
        optimizer: of the server, if it has one.
        rule: that sees all replies, in place of the mean.
    """

    def __init__(
        self,
        method: Method,
        mean: RunningMean | RobustMean | PrivateMean,
        before: ArrayRecord,
        optimizer: ServerOptimizer | None = None,
        rule: Rule | None = None,
    ) -> None:
        self._method, self._mean, self._before, self._optimizer = method, mean, before, optimizer
        self._rule, self._weighs = rule, method.weighs()
        self._held: list[tuple[Reply, ArrayRecord]] = []
        self._beside: list[Arrays] = []

    def add(self, client: int, reply: Checked, examples: int) -> None:
        """Add the valid reply of a client with so many images."""
        if self._method.replies_beside:
            self._beside.append(to_state(reply.beside))
        if self._weighs or self._rule is not None:
            self._held.append((Reply(client, examples, reply.loss), reply.arrays))
        else:
            self._mean.add(reply.arrays, examples)

    def ruled(self, server_round: int, weights: Collection[str], kept: Arrays) -> ArrayRecord | None:
        """Return the new global model of a rule that sees all replies; None where there is no such rule.

        Args:
            server_round: from 1.
            weights: names of the arrays that are trained.
            kept: what the rule keeps; changed.
        """
        if self._rule is None:
            return None
        models = [to_state(arrays) for _, arrays in self._held]
        replies = [reply for reply, _ in self._held]
        return to_record(self._rule(Received(server_round, replies, models, to_state(self._before), weights, kept)))

    def result(self, server_round: int, server: Arrays) -> ArrayRecord:
        """Return the new global model.

        Args:
            server_round: from 1.
            server: what the method keeps at the server; changed.
        """
        if self._weighs:
            given = self._method.shares([reply for reply, _ in self._held], server_round)
            shares = check_shares(self._method.name, given, len(self._held))
            self._mean = RunningMean(sum(shares))
            for (_, arrays), share in zip(self._held, shares, strict=True):
                self._mean.add(arrays, share)
        mean = self._mean.result()
        if not self._method.combines() and self._optimizer is None:
            return mean
        before, averaged = to_state(self._before), to_state(mean)
        model = self._method.combine(before, averaged, self._beside, server)
        check_arrays(self._method.name, "combine", model, averaged)
        check_arrays(self._method.name, "combine, in what the server keeps,", server)
        if self._optimizer is not None:
            model = self._optimizer.step(server_round, before, model)
        return to_record({name: model[name] for name in averaged})
