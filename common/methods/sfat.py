"""SFAT."""

from collections.abc import Sequence

from common.methods.method import Method, MethodContext, Reply


class SFAT(Method):
    """Slack federated adversarial training (Zhu et al. 2023, arXiv 2303.00250, equation 5).

    The ``method.sfat-top`` clients with the lowest training loss of the round count (1 + α) / (1 − α) times as much as
    by their images alone, from the second round on, as in the authors' code; α is ``method.sfat-alpha``. The shares add
    up to one. In the authors' code they do so only where the first client of the round is preferred: otherwise the sum
    is divided by a number that counts that client twice. There, α = 1/6 (``--pri 1.4``) and one client (``--topk 1``)
    are the defaults.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        alpha = context.sfat_alpha
        self._more = (1 + alpha) / (1 - alpha)

    def shares(self, replies: Sequence[Reply], server_round: int) -> Sequence[float]:
        """Return numbers of images, those of the clients with the lowest losses times (1 + α) / (1 − α)."""
        if server_round == 1:
            return super().shares(replies, server_round)
        eager = sorted(replies, key=lambda reply: (reply.loss, reply.client))[: self.context.sfat_top]
        return [reply.examples * (self._more if reply in eager else 1.0) for reply in replies]
