"""MOON."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from common.errors import DeadEndError
from common.methods.method import Arrays, Method, MethodContext, Turn
from common.methods.networks import OtherWeights, Seen, last_linear, watching
from common.training.losses import Loss


class MOON(Method):
    """Model-contrastive learning (Li et al. 2021, arXiv 2103.16257, equations 3 and 4), on top of any local loss.

    Loss: local + μ ℓ, with ℓ = −log(exp(s_glob / τ) / (exp(s_glob / τ) + exp(s_prev / τ))), where s are the cosine
    similarities of the features z of the trained model to those of the global model and of the client's own model of
    its last turn; μ is ``method.moon-mu``, τ ``method.moon-temperature``. Features are what goes into the network's
    last linear layer. The two other models are in eval mode, as in the authors' code.

    The features are of the images on which the local loss trains the network, in the same forward pass: attacked ones
    with PGD-AT, attacked and natural ones with the losses that train on both. So the trained features cost no pass and
    batch normalization sees nothing new. Each of these images costs a forward pass of either other model. The attack
    does not see ℓ. The loss must call the network in training mode.

    A client that is asked for the first time, or has lost its model, takes the global one for it: ℓ is log 2 and has no
    gradient. In the authors' code ℓ is then 0, and the network gets two more linear layers before its last one.
    """

    keeps = records = True

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        self._loss: _Contrast | None = None

    def check(self, model: nn.Module) -> None:
        """Check that the network has a last linear layer."""
        last_linear(model, self.name)

    def loss(self, turn: Turn, loss: Loss) -> Loss:
        """Return the local loss with the contrastive term; the same object as before for the same local loss."""
        if self._loss is None or self._loss.model is not turn.model or self._loss.local != loss:
            self._loss = _Contrast(turn.model, loss, self.context, self.name)
        self._loss.others[0].load(turn.received)
        self._loss.others[1].load(turn.kept or turn.received)
        return self._loss

    def after(self, turn: Turn) -> Arrays:
        """Keep the trained model, with its statistics."""
        turn.kept.update({name: array.cpu().clone() for name, array in turn.model.state_dict().items()})
        return {}

    def passes(self, local: float, trained: int) -> float:
        """Return the passes of the local loss, and two for each image that the network is trained on."""
        return local + 2 * trained


class _Contrast:
    def __init__(self, model: nn.Module, local: Loss, context: MethodContext, name: str) -> None:
        self.model, self.local = model, local
        self.others = OtherWeights(model), OtherWeights(model)
        self._head, self._name = last_linear(model, name), name
        self._mu, self._temperature = context.moon_mu, context.moon_temperature

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        with watching(self.model, self._head, training=True) as seen:
            value = self.local(images, labels)
        self._check(seen, "a batch's loss", "training")
        own, pixels = torch.cat(seen.features), torch.cat(seen.pixels)
        same, former = (F.cosine_similarity(own, self._features(other, pixels)) for other in self.others)
        # −log(exp(a) / (exp(a) + exp(b))) = log(1 + exp(b − a))
        return value + self._mu * F.softplus((former - same) / self._temperature).mean()

    def _features(self, other: OtherWeights, pixels: Tensor) -> Tensor:
        with watching(self.model, self._head, training=False) as seen:
            other(pixels)
        self._check(seen, "MOON", "eval")
        return seen.features[0]

    def _check(self, seen: Seen, who: str, mode: str) -> None:
        if not seen.pixels or len(seen.pixels) != len(seen.features):
            raise DeadEndError(
                f"method.name = {self._name}: {who} calls the network in {mode} mode {len(seen.pixels)} times, and its "
                f"last nn.Linear is called {len(seen.features)} times; both must be called alike, at least once"
            )
