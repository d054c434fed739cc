"""AWP: each training step is taken at weights that were moved against it."""

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from common.attacks.minimal import Attack
from common.models.modes import keep_statistics

Found = tuple[Tensor, tuple[Tensor, ...]]
"""A batch's loss, and its gradient for each weight: None, whatever torch declares, where none of it depends on one."""

_SMALL = 1e-20  # as in the authors' code: a gradient of zero moves nothing


class WeightPerturbation:
    """AWP (Wu et al. 2020, arXiv 2004.05884): min over w, max over v of the loss at w + v.

    For each layer l, v_l = γ ‖w_l‖ g_l / ‖g_l‖, with g the gradient of the batch's loss at w. The step takes the
    gradient at w + v, and changes w. Both gradients see the same adversarial examples, made at w. Biases and batch
    normalization are not moved, and the first pass leaves the running statistics alone.

    A step costs one training pass more: 3 forward passes for each image that goes through the network.

    As in the authors' code (github.com/csdongxian/AWP), which takes one step of v and moves the weights with two or
    more dimensions. There, weight decay sees w + v; here w, as does a method's correction of the gradients. There, AWP
    with TRADES begins after ten epochs. Noise that a loss draws itself differs between the passes.

    Args:
        model: that is trained.
        gamma: γ, the length of v_l relative to w_l, > 0.
    """

    def __init__(self, model: nn.Module, gamma: float) -> None:
        self._model, self._gamma = model, gamma
        self._made: deque[Tensor] = deque()
        self._pass = 0  # outside of a step

    def remember(self, attack: Attack) -> Attack:
        """Return an attack that gives the second pass what it has made in the first."""

        def perturb(images: Tensor, labels: Tensor) -> Tensor:
            if self._pass == 2 and self._made:
                return self._made.popleft()
            adversarial = attack(images, labels)
            if self._pass == 1:
                self._made.append(adversarial)
            return adversarial

        return perturb

    def at_worst(self, weights: Sequence[Tensor], find: Callable[[], Found]) -> Found:
        """Return what ``find`` finds at w + v; the weights are w again afterwards, to the bit.

        Nothing here decides on the CPU, and all tensors keep their places, so a GPU can record it.

        Args:
            weights: w, all that are trained.
            find: computes loss and gradients of the batch; called twice.
        """
        before = [weight.detach().clone() for weight in weights]
        try:
            self._pass = 1
            with keep_statistics(self._model):
                _, gradients = find()
            self._pass = 2
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    if gradient is not None and weight.dim() > 1:
                        weight.add_(self._gamma * weight.norm() / (gradient.norm() + _SMALL) * gradient)
            return find()
        finally:
            self._pass = 0
            self._made.clear()
            with torch.no_grad():
                for weight, values in zip(weights, before, strict=True):
                    weight.copy_(values)
