"""FedProx."""

from common.methods.method import Method, Turn
from common.training.pull import LinearPull


class FedProx(Method):
    """FedProx (Li et al. 2020, arXiv 1812.06127, equation 2): the client minimizes F_k(w) + μ/2 ‖w − w_t‖².

    Its gradient is that of the local loss plus μ (w − w_t); μ is ``method.prox-mu``. It costs no pass of the network.
    """

    def pull(self, turn: Turn) -> LinearPull:
        """Return what adds μ (w − w_t) to the gradients."""
        return LinearPull(turn.received, self.context.prox_mu)
