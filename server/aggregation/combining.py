"""From the valid replies of a round to the new model, as the federation's method wants it."""

from flwr.app import ArrayRecord

from common.messages.records import to_record, to_state
from common.methods.checks import check_arrays, check_shares
from common.methods.method import Arrays, Method, Reply
from server.aggregation.mean import RunningMean
from server.aggregation.reply_checks import Checked
from server.aggregation.robust import RobustMean
from server.aggregation.server_optimizer import ServerOptimizer


class Combined:
    """Takes the replies one by one, in client order; each can be freed at once, unless the method needs all of them.

    Args:
        method: of the federation.
        mean: of the strategy; where the method weighs replies by more than their images, it is replaced.
        before: the global model of this round.
        optimizer: of the server, if it has one.
    """

    def __init__(
        self,
        method: Method,
        mean: RunningMean | RobustMean,
        before: ArrayRecord,
        optimizer: ServerOptimizer | None = None,
    ) -> None:
        self._method, self._mean, self._before, self._optimizer = method, mean, before, optimizer
        self._weighs = method.weighs()
        self._held: list[tuple[Reply, ArrayRecord]] = []
        self._beside: list[Arrays] = []

    def add(self, client: int, reply: Checked, examples: int) -> None:
        """Add the valid reply of a client with so many images."""
        if self._method.replies_beside:
            self._beside.append(to_state(reply.beside))
        if self._weighs:
            self._held.append((Reply(client, examples, reply.loss), reply.arrays))
        else:
            self._mean.add(reply.arrays, examples)

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
