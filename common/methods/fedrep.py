"""FedRep."""

from dataclasses import replace

from common.methods.fedper import FedPer
from common.methods.method import Fit, Turn
from common.training.trainer import FitResult


class FedRep(FedPer):
    """FedRep (Collins et al. 2021, arXiv 2102.07078, algorithm 1): the head stays, and is trained first.

    Client i takes τ steps on its head with the received body, h_i ← h_i − α ∇_h f_i(h_i, φ), and then trains the body
    with that head, φ_i ← φ − α ∇_φ f_i(h_i, φ). Only φ_i is sent; the server takes the mean. The head trains for
    ``method.head-epochs`` epochs and the body for ``train.local-epochs``: so many epochs more than in FedAvg.

    As in the authors' code, batch normalization belongs to the body, and its statistics follow the batches in both
    parts; the mean is by numbers of images, where the paper's algorithm has a plain one. Other than there, each part
    begins without momentum, and what is frozen does not move: there, old momentum goes on moving it.
    """

    def train(self, turn: Turn, fit: Fit) -> FitResult:
        """Train the head, then the body."""
        head = frozenset(self.stays(turn.model))
        body = frozenset(turn.weights) - head
        fit(replace(turn.plan, epochs=self.context.head_epochs, frozen=body), part="head")
        return fit(replace(turn.plan, frozen=head))
