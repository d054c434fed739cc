"""What a network costs: its weights, and its arithmetic for one image."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.user_code import is_own


@dataclass(frozen=True)
class Cost:
    """Size of a network.

    Attributes:
        parameters: trainable weights.
        flops: floating-point operations of one forward pass of one image, two for each multiply-add of the convolutions
            and linear layers. (Some papers count multiply-adds: half of this.)
    """

    parameters: int
    flops: float


def model_cost(model: nn.Module, image_size: int) -> Cost:
    """Count a network's weights and the arithmetic of its forward pass; the network itself is left alone.

    ``torch.utils.flop_counter`` counts the same, but its import takes as long as a quarter of a start, and counting on
    the device ``meta``, where nothing would be computed, imports torch's compiler.

    Args:
        model: from pixels [B,3,H,W] to logits; its layers with weights are ``Conv2d`` and ``Linear`` (and batch
            normalisation, whose arithmetic is not counted).
        image_size: side of the square images, in pixels.
    """
    parameters = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    flops = 0.0

    def count(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal flops
        flops += 2 * layer.weight[0].numel() * output[0].numel()

    probe = copy.deepcopy(model).eval()
    for layer in probe.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        probe(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    return Cost(parameters, flops)


def training_passes(
    loss: str, attack: str, steps: int, mixture: Sequence[tuple[str, float]] = (), mixture_rate: float = 0.0
) -> float | None:
    """Return the arithmetic of training on one image, in forward passes.

    A gradient with respect to the image costs one forward pass more, one with respect to the weights as well two more.

    Args:
        loss: a key of ``LOSSES``.
        attack: the training attack: a key of ``ATTACKS``, ``none``, or ``mixture``.
        steps: of an iterative attack.
        mixture: attacks and weights of ``mixture``.
        mixture_rate: above 0, each image that it made is looked at once more.

    Returns:
        The passes, or None where the images decide (``deepfool``), or a user's own code.
    """
    if is_own(loss):
        return None
    if loss in {"trades", "calfat"}:
        attack = "kl"
    perturbing = _attack_passes(attack, steps, mixture, mixture_rate)
    on_two_images = loss in {"mixed-at", "trades", "mart"}
    return None if perturbing is None else perturbing + (6 if on_two_images else 3)


def _attack_passes(
    attack: str, steps: int, mixture: Sequence[tuple[str, float]] = (), mixture_rate: float = 0.0
) -> float | None:
    if attack == "mixture":
        total = sum(weight for _, weight in mixture)
        parts = [(_attack_passes(part, steps), weight / total) for part, weight in mixture]
        looked_at = 1 if mixture_rate > 0 else 0
        known = [passes * share for passes, share in parts if passes is not None]
        return sum(known) + looked_at if len(known) == len(parts) else None
    # `kl` asks for the natural prediction first.
    passes = {"none": 0, "fgsm": 2, "bim": 2 * steps, "pgd": 2 * steps, "cw": 2 * steps, "kl": 1 + 2 * steps}
    return passes.get(attack)
