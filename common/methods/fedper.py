"""FedPer."""

from collections.abc import Collection

from torch import nn

from common.methods.method import Method
from common.methods.personal import head_names


class FedPer(Method):
    """FedPer (Arivazhagan et al. 2019, arXiv 1912.00818, algorithms 1 and 2): the head stays with the client.

    Client j trains base and head together, (W_B, W_Pj) ← SGD(W_B, W_Pj), and sends W_B; the server takes its mean by
    numbers of images. The head is the last layer: of the paper's K_P personal layers or blocks, one. All heads start
    alike; in the paper, each client draws its own. It costs no pass of the network.
    """

    keeps = personal = True

    def stays(self, model: nn.Module) -> Collection[str]:
        """Return the arrays of the last layer."""
        return head_names(model, self.name)
