"""DBFAT."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from common.errors import DeadEndError
from common.methods.method import Method, MethodContext, Turn
from common.methods.networks import OtherWeights, watching
from common.training.losses import Loss


class DBFAT(Method):
    """Decision-boundary based federated adversarial training (Zhang et al. 2023, arXiv 2302.09479).

    It has two parts. Locally, images near the decision boundary count more: this is ``loss.name = boundary-weighted``.
    Globally, the client's answers are held near those of the global model: loss = local + β KL(f_glob(x) ‖ f(x)), over
    the images x on which the local loss trains the network; β is ``method.dbfat-beta``. The global model is in eval
    mode. It costs a forward pass of each of these images; the weights cost none, since the attack asks anyway.

    Both parts are the paper's. How the margin is counted, the formula of the weight, and the images of the divergence
    are ours: we have found neither its authors' code nor more than the beginning of its text.
    """

    records = True

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        self._loss: _Regularized | None = None

    def loss(self, turn: Turn, loss: Loss) -> Loss:
        """Return the local loss with the global model's part; the same object as before for the same local loss."""
        if self._loss is None or self._loss.model is not turn.model or self._loss.local != loss:
            self._loss = _Regularized(turn.model, loss, self.context.dbfat_beta, self.name)
        self._loss.received.load(turn.received)
        return self._loss

    def passes(self, local: float, trained: int) -> float:
        """Return the passes of the local loss, and one for each image that the network is trained on."""
        return local + trained


class _Regularized:
    def __init__(self, model: nn.Module, local: Loss, beta: float, name: str) -> None:
        self.model, self.local, self.received = model, local, OtherWeights(model)
        self._beta, self._name = beta, name

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        with watching(self.model, None, training=True) as seen:
            value = self.local(images, labels)
        if not seen.pixels:
            raise DeadEndError(
                f"method.name = {self._name}: a batch's loss never calls the network in training mode; let it do so"
            )
        own = F.log_softmax(torch.cat(seen.logits), 1)
        others = F.log_softmax(self.received(torch.cat(seen.pixels)).float(), 1)
        return value + self._beta * F.kl_div(own, others, reduction="batchmean", log_target=True)
