"""FedDynAT."""

from dataclasses import replace

from common.methods.feddyn import FedDyn
from common.methods.method import Turn


class FedDynAT(FedDyn):
    """FedDynAT (Shah et al. 2021, arXiv 2103.01319): FedDyn, with fewer and fewer local epochs.

    Many epochs of adversarial training in each round let clients drift apart, few make the first rounds slow. So round
    t has E_t = E_0 γ^⌊(t − 1) / F⌋ epochs, rounded, and 1 at least: E_0 is ``method.dynat-epochs``, γ is
    ``method.dynat-decay``, F is ``method.dynat-every``; ``train.local-epochs`` is not used. An image costs the same as
    with FedDyn. The authors have published no code; the form of this rule is not checked against the full paper, and
    the default values are ours.
    """

    def before(self, turn: Turn) -> None:
        """Set the epochs of this round."""
        turn.plan = replace(turn.plan, epochs=self.epochs(turn.server_round))

    def epochs(self, server_round: int) -> int:
        """Return how many local epochs a round has, counted from 1."""
        falls = (server_round - 1) // self.context.dynat_every
        return max(1, round(self.context.dynat_epochs * self.context.dynat_decay**falls))
