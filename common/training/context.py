"""What a training method is made from."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.attacks.library import Attack
from common.attacks.mixture import build_training_attack
from common.attacks.threat import Threat
from common.training.awp import WeightPerturbation
from common.training.calibration import EQUATIONS, Calibration

Loss = Callable[[Tensor, Tensor], Tensor]
"""(images [B,3,H,W] in [0, 1], labels [B]) -> scalar loss, with a graph to the model's weights."""


@dataclass(frozen=True)
class LossContext:
    """What a training method may need besides the batch.

    Attributes:
        attack: the training attack, as in ``build_training_attack``.
        threat: its budget and steps.
        label_smoothing: alpha of the soft labels, in [0, 1).
        noise_std: standard deviation of the Gaussian noise on natural images, in the [0, 1] pixel range.
        beta: weight of the KL term of TRADES and MART, >= 0.
        calibration: of CalFAT.
        class_counts: images of each class in the client's training data.
        margin_tau: τ of the logit-calibrated loss, >= 0.
        prior: what CalFAT (log of the class prior) or the logit-calibrated loss (margins) adds to the logits, float32
            [N]; made of ``class_counts`` if not given.
        mixture: attacks and weights of the attack ``mixture``.
        mixture_rate: how fast those weights follow the attack that hurts most.
        fast: attack the network with batch normalization folded into its convolutions.
        half: attack in bfloat16, whatever the precision of training.
        awp: perturbs the weights in each step, and so needs to know the adversarial examples; None: it is off.
    """

    attack: str
    threat: Threat
    label_smoothing: float
    noise_std: float
    beta: float = 6.0
    calibration: Calibration = EQUATIONS
    class_counts: tuple[int, ...] = ()
    margin_tau: float = 1.0
    prior: Tensor | None = None
    mixture: tuple[tuple[str, float], ...] = ()
    mixture_rate: float = 0.0
    fast: bool = False
    half: bool = False
    awp: WeightPerturbation | None = None

    def build_attack(self, model: nn.Module, name: str = "") -> Attack:
        """Return the training attack on a model, or the attack of this name.

        With ``fast``, the attack calls a shallow copy of the model: what ``forward`` appends to a list of the model is
        in the model's too, what it assigns to an attribute is in the copy alone.

        Raises:
            FedShieldError: as in ``build_training_attack``.
        """
        classes = len(self.class_counts)
        name = name or self.attack
        attack = build_training_attack(name, model, self.threat, self.mixture, self.mixture_rate, classes, self.fast)
        attack = in_bfloat16(attack) if self.half else attack
        return self.awp.remember(attack) if self.awp is not None else attack


def in_bfloat16(attack: Attack) -> Attack:
    """Return an attack whose network computes in bfloat16; images and perturbation stay float32."""

    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return attack(images, labels)

    return perturb
