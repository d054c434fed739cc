"""Adversarial attacks by name, all through torchattacks, on models that take pixels in [0, 1]."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

Attack = Callable[[Tensor, Tensor], Tensor]
"""(images [B,3,H,W] in [0, 1], labels [B]) -> adversarial images, same shape and range."""


@dataclass(frozen=True)
class Threat:
    """What the adversary may do.

    Attributes:
        epsilon: radius of the Linf ball, in the [0, 1] pixel range (8/255 is the usual one).
        step: step size of iterative attacks, same unit.
        steps: number of gradient steps of iterative attacks.
        norm: the norm of the ball.
    """

    epsilon: float
    step: float
    steps: int
    norm: Literal["Linf"] = "Linf"


@contextmanager
def attack_mode(model: nn.Module) -> Iterator[None]:
    """Hold the whole model in eval mode, then give every module its own mode back.

    Batch normalisation in training mode would let the attack shift the running statistics and see the other images of
    its batch. torchattacks switches the mode too, but then puts *all* modules into training mode, frozen ones included.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def build_attack(name: str, model: nn.Module, threat: Threat) -> Attack:
    """Return the attack on ``model``, which sees the model's weights as they are at each call.

    Args:
        name: a key of ``ATTACKS``.
        model: from pixels in [0, 1] to logits.
        threat: budget and steps.
    """
    attack = ATTACKS[name](model, threat)
    if name == "none":  # nothing to guard the model from, and small networks would feel it
        return attack  # type: ignore[no-any-return]

    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        with attack_mode(model):
            adversarial: Tensor = attack(images, labels)
        return adversarial

    return perturb


def parse_label(label: str, threat: Threat) -> tuple[str, Threat]:
    """Split an evaluation attack's label: ``pgd-20`` -> ``("pgd", threat with 20 steps)``; ``fgsm`` has no steps."""
    name, _, steps = label.partition("-")
    return name, replace(threat, steps=int(steps)) if steps else threat


def _none(model: nn.Module, threat: Threat) -> Any:
    return lambda images, labels: images


def _fgsm(model: nn.Module, threat: Threat) -> Any:
    """Goodfellow et al. 2015, arXiv 1412.6572."""
    import torchattacks

    return torchattacks.FGSM(model, eps=threat.epsilon)


def _bim(model: nn.Module, threat: Threat) -> Any:
    """Kurakin et al. 2017, arXiv 1607.02533: PGD without the random start."""
    import torchattacks

    return torchattacks.BIM(model, eps=threat.epsilon, alpha=threat.step, steps=threat.steps)


def _pgd(model: nn.Module, threat: Threat) -> Any:
    """Madry et al. 2018, arXiv 1706.06083, from a uniformly random start."""
    import torchattacks

    return torchattacks.PGD(model, eps=threat.epsilon, alpha=threat.step, steps=threat.steps, random_start=True)


# All of them are bounded: their result lies within epsilon of the image.
ATTACKS: dict[str, Callable[[nn.Module, Threat], Any]] = {"none": _none, "fgsm": _fgsm, "bim": _bim, "pgd": _pgd}
