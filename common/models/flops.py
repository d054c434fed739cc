"""What a network costs: its weights, and its FLOPs for one image.

A multiply-add counts as two floating-point operations (FLOP), as in ``torch.utils.flop_counter``. Papers that count
multiply-adds (MAC) state half as much.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.models.modes import keep_modes, keep_statistics
from common.user_code import is_user_code


@dataclass(frozen=True)
class Cost:
    """Size of a network.

    Attributes:
        parameters: trainable weights.
        flops: floating-point operations of one forward pass of one image, two for each multiply-add.
    """

    parameters: int
    flops: float


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what runs inside it, by the formulas in ``torch.utils.flop_counter``.

    ``FlopCounterMode`` gives the same total. It also imports torch's compiler, which would delay every run by seconds.

    Attributes:
        total: FLOP so far: of matrix products, convolutions and attention, on any device. Other operations count zero.
    """

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry

        super().__init__()  # type: ignore[no-untyped-call]
        self._formulas = flop_registry
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler to hide this class from it

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation of torch, and add what it costs."""
        output = func(*args, **(kwargs or {}))
        if (formula := self._formulas.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output


def model_cost(model: nn.Module, image_size: int) -> Cost:
    """Count a network's weights and the arithmetic of its forward pass in eval mode; the network itself is left alone.

    Args:
        model: from pixels [B,3,H,W] to logits.
        image_size: side of the square images, in pixels.
    """
    parameters = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    device = next(model.parameters()).device
    images = torch.zeros(1, 3, image_size, image_size, device=device)
    generators = [device] if device.type == "cuda" else []
    # Not on a copy: a user's network may hold what has none, such as a lock.
    with keep_modes(model), keep_statistics(model), torch.random.fork_rng(generators), torch.no_grad():
        model.eval()
        with _plain_attention(), FlopCounter() as counter:
            model(images)
    return Cost(parameters, float(counter.total))


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Have ``nn.MultiheadAttention`` call matrix products; in eval mode it is one operation that has no formula."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def training_passes(
    loss: str,
    attack: str,
    steps: int,
    mixture: Sequence[tuple[str, float]] = (),
    mixture_rate: float = 0.0,
    calfat_attack: str = "kl",
) -> float | None:
    """Return the arithmetic of training on one image, in forward passes.

    A gradient with respect to the image costs one forward pass more, one with respect to the weights as well two more.

    Args:
        loss: a key of ``LOSSES``.
        attack: the training attack: a key of ``ATTACKS``, ``none``, or ``mixture``.
        steps: of an iterative attack.
        mixture: attacks and weights of ``mixture``.
        mixture_rate: above 0, each image that it made goes through the model once more.
        calfat_attack: ``kl`` or ``pgd``.

    Returns:
        The passes, or None where the images decide (``deepfool``), or a user's own code.
    """
    if is_user_code(loss):
        return None
    if loss in {"trades", "calfat"}:
        attack = "kl" if loss == "trades" else calfat_attack
    perturbing = _attack_passes(attack, steps, mixture, mixture_rate)
    return None if perturbing is None else perturbing + 3 * trained_images(loss)


def trained_images(loss: str) -> int:
    """Return how many images a loss of ``LOSSES`` puts through the network in training mode, for each image."""
    return 2 if loss in {"mixed-at", "trades", "mart"} else 1


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
