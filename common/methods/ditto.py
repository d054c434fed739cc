"""Ditto."""

from common.methods.method import Fit, Method, Turn
from common.models.networks import load_state
from common.training.pull import LinearPull
from common.training.trainer import FitResult


class Ditto(Method):
    """Ditto (Li et al. 2021, arXiv 2012.04221, algorithm 1): a personal model, pulled towards the global one.

    Client k trains its own model v_k by v_k ← v_k − η (∇F_k(v_k) + λ (v_k − w_t)), and, apart from it, the global one
    from w_t on, which is what it sends. The global model is FedAvg's, with the same bits. λ is ``method.ditto-lambda``;
    both models train for ``train.local-epochs``, so it costs twice the passes. All v_k start at the first w_t that the
    client receives. Batch normalization's statistics have no gradient and are not pulled.

    In the authors' code, both take steps on the same batches in turn; here each has an order of its own.
    """

    keeps = personal = True

    def train(self, turn: Turn, fit: Fit) -> FitResult:
        """Train the client's own model, then the global one."""
        load_state(turn.model, {**turn.received, **turn.own})
        fit(turn.plan, LinearPull(turn.received, self.context.ditto_lambda), part="own")
        turn.own = turn.trained(turn.received)
        load_state(turn.model, turn.received)
        return fit(turn.plan)

    def passes(self, local: float, trained: int) -> float:
        """Return the passes of both models."""
        return 2 * local
