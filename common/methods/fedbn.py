"""FedBN."""

from collections.abc import Collection

from torch import nn

from common.methods.method import Method
from common.methods.personal import norm_names


class FedBN(Method):
    """FedBN (Li et al. 2021, arXiv 2102.07623, algorithm 1): batch normalization stays with the client.

    For all layers l: if l is no batch normalization, w_l ← the mean of the clients' w_l; otherwise every client keeps
    its own w_l. Its weights, statistics and counters are never sent. It costs no pass of the network.

    The mean is by numbers of images; in the authors' code, every client counts alike. The global model has the initial
    batch normalization for ever, so that it is no model to use: the clients' own are.
    """

    keeps = personal = True

    def stays(self, model: nn.Module) -> Collection[str]:
        """Return all arrays of batch normalization."""
        return norm_names(model, self.name)
