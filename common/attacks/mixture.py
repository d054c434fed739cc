"""Several training attacks at once, with fixed weights, or weights that grow for the attack that does most damage."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from common.attacks.library import Attack, MinimalAttack, attack_mode, build_attack
from common.attacks.threat import Threat

_LEAST = 0.01  # least weight of an attack: one that does little damage now is still tried from time to time


def build_training_attack(
    name: str,
    model: nn.Module,
    threat: Threat,
    mixture: Sequence[tuple[str, float]] = (),
    rate: float = 0.0,
    classes: int = 10,
    fast: bool = False,
) -> Attack:
    """Return the attack to train against; what it makes never leaves the ball of ``threat``.

    Args:
        name: as in ``build_attack``, or ``mixture``.
        model: from pixels [B,3,H,W] in [0, 1] to logits [B,N].
        threat: budget and steps.
        mixture: names and weights (> 0) of the attacks of ``mixture``.
        rate: how fast its weights move, >= 0; see ``Mixture``.
        classes: N, which a user's attack may ask for.
        fast: as in ``build_attack``.

    Raises:
        FedShieldError: as in ``build_attack``.
    """
    if name == "mixture":
        attacks = [build_training_attack(part, model, threat, fast=fast) for part, _ in mixture]
        return Mixture(model, attacks, [weight for _, weight in mixture], rate)
    attack = build_attack(name, model, threat, classes, fast=fast)
    return attack.within(threat) if isinstance(attack, MinimalAttack) else attack


class Mixture:
    """Gives each image of a batch to one attack, drawn with the attacks' weights.

    With a rate above 0 the weights follow which attack now hurts most: after each batch the weight of an attack is
    multiplied by exp(rate × mean cross-entropy of the images it made), the exponential weights of Freund and Schapire
    1997 (Hedge) with the attacks as experts. An attack that was given no image counts the weighted mean of the others,
    so that its weight stays, and none falls below a hundredth.

    Args:
        model: that the attacks attack.
        attacks: one or more.
        weights: one for each, > 0; they are scaled to sum to 1.
        rate: >= 0; 0 keeps the weights as given.
    """

    def __init__(self, model: nn.Module, attacks: Sequence[Attack], weights: Sequence[float], rate: float) -> None:
        self.model = model
        self.attacks = attacks
        self.weights = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        self.rate = rate

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Attack images [B,3,H,W] in [0, 1] with labels [B]."""
        drawn = torch.multinomial(self.weights, len(images), replacement=True)
        adversarial = images.clone()
        losses = torch.full_like(self.weights, torch.nan)
        for number, attack in enumerate(self.attacks):
            rows = (drawn == number).nonzero()[:, 0]  # chosen here: a GPU need not be waited for
            if len(rows) == 0:
                continue
            if images.is_cuda:
                rows = rows.pin_memory().to(images.device, non_blocking=True)
            adversarial[rows] = attack(images[rows], labels[rows])
            if self.rate > 0:
                losses[number] = self._hurt(adversarial[rows], labels[rows])
        if self.rate > 0:
            self._follow(losses)
        return adversarial

    def _follow(self, losses: Tensor) -> None:
        """Update the weights; a loss that is not finite is ignored."""
        known = losses.isfinite()
        if not known.any():
            return
        mean = (self.weights * losses)[known].sum() / self.weights[known].sum()
        moved = self.weights * torch.exp(self.rate * (torch.where(known, losses, mean) - losses[known].max()))
        moved = (moved / moved.sum()).clamp(min=_LEAST)
        self.weights = moved / moved.sum()

    def _hurt(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad(), attack_mode(self.model):
            return F.cross_entropy(self.model(images), labels).cpu().double()
