"""Training methods. A loss owns its inner maximization: it attacks the model, then returns the batch's loss."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import DeadEndError
from common.training.boundary import Asked, boundary_weights
from common.training.calibration import Calibrated, label_margins, log_prior
from common.training.context import Loss, LossContext
from common.user_code import explain_user_code, is_user_code, load_user_code

__all__ = ["LOSSES", "Loss", "LossContext", "TrainingMethod", "build_loss", "soft_cross_entropy"]


def soft_cross_entropy(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Mean cross-entropy with the soft labels of arXiv 2512.04264: true class 1 − α(N−1)/N, every other class α/N.

    With N classes this is ordinary label smoothing (Szegedy et al. 2016, arXiv 1512.00567).

    Args:
        logits: [B,N].
        labels: int64 [B], in [0, N).
        alpha: in [0, 1).
    """
    return F.cross_entropy(logits, labels, label_smoothing=alpha)


def pgd_at(model: nn.Module, context: LossContext) -> Loss:
    """Adversarial training on adversarial images alone (Madry et al. 2018, arXiv 1706.06083, equation 2.1)."""
    attack = context.build_attack(model)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return soft_cross_entropy(model(attack(images, labels)), labels, context.label_smoothing)

    return loss


def mixed_at(model: nn.Module, context: LossContext) -> Loss:
    """The recipe of arXiv 2512.04264: natural images with Gaussian noise together with their adversarial examples.

    The two halves go through the model as one batch, so that batch normalization sees both.
    """
    attack = context.build_attack(model)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        noisy = (images + context.noise_std * torch.randn_like(images)).clamp(0, 1)
        both = torch.cat([noisy, attack(images, labels)])
        return soft_cross_entropy(model(both), torch.cat([labels, labels]), context.label_smoothing)

    return loss


def trades(model: nn.Module, context: LossContext) -> Loss:
    """TRADES (Zhang et al. 2019, arXiv 1901.08573, equation 5): CE(f(x), y) + β KL(f(x) ‖ f(x')).

    x' maximizes that KL divergence in the ball. Natural and adversarial images go through the model one after the
    other, as in the authors' code.
    """
    attack = context.build_attack(model, "kl")

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = attack(images, labels)
        natural = model(images)
        apart = _divergence(natural, model(adversarial)).mean()
        return soft_cross_entropy(natural, labels, context.label_smoothing) + context.beta * apart

    return loss


def mart(model: nn.Module, context: LossContext) -> Loss:
    """MART (Wang et al. 2020, ICLR, equations 9 to 11): BCE(p(x'), y) + β KL(p(x) ‖ p(x')) (1 − p_y(x)).

    BCE = −log p_y(x') − log(1 − max over k ≠ y of p_k(x')); x' maximizes the cross-entropy. The labels are hard.
    """
    attack = context.build_attack(model)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = attack(images, labels)
        natural, attacked = model(images), model(adversarial)
        own = labels[:, None]
        logs = F.log_softmax(attacked, 1)
        rival = logs.scatter(1, own, -torch.inf).argmax(1, keepdim=True)
        # log(1 - p) as the log of all other probabilities' sum: finite also where p rounds to 1.
        missed = logs.scatter(1, rival, -torch.inf).logsumexp(1)
        boosted = -logs.gather(1, own)[:, 0] - missed
        uncertainty = 1 - F.softmax(natural, 1).gather(1, own)[:, 0]
        return (boosted + context.beta * _divergence(natural, attacked) * uncertainty).mean()

    return loss


def calfat(model: nn.Module, context: LossContext) -> Loss:
    """CalFAT (Chen et al. 2022, arXiv 2205.14926): the log of the client's class prior π is added to the logits z.

    Loss: the cross-entropy of s z + log π at x', with hard labels (soft ones would raise exactly the classes that the
    client lacks). Inner maximization: the KL divergence between the predictions z + log π / s of x' and x, or the loss
    itself. The prior is that of all data the client trains on. At evaluation the model is used without it. The scale s
    is 1 in the paper's equations and 10 in its authors' code, which writes s z + log π as 10 (z + 0.1 log π).
    """
    how = context.calibration
    prior = log_prior(context.class_counts, how.absent) if context.prior is None else context.prior
    prior = prior.to(next(model.parameters()).device)
    calibrated = Calibrated(model, prior, how.scale)
    attacked = calibrated if how.attack == "pgd" else Calibrated(model, prior, strength=1 / how.scale)
    attack = context.build_attack(attacked, how.attack)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(calibrated(attack(images, labels)), labels)

    return loss


def logit_calibrated(model: nn.Module, context: LossContext) -> Loss:
    """Logit-calibrated adversarial training (Qiao et al. 2024, arXiv 2403.02803), with the margins of FedLC.

    Loss: the cross-entropy of z − τ n^(−1/4) at x', with hard labels; z are the logits, n the client's images of each
    class. So the fewer images a class has, the larger its logit has to be (FedLC: Zhang et al. 2022, arXiv 2209.00189).
    A class that the client lacks has a margin of 100 τ: its logit is left alone. x' maximizes the cross-entropy of the
    plain logits. The paper says that it weights classes with few images more; these margins are not checked against it.
    """
    margins = label_margins(context.class_counts, context.margin_tau) if context.prior is None else context.prior
    calibrated = Calibrated(model, margins.to(next(model.parameters()).device))
    attack = context.build_attack(model)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(calibrated(attack(images, labels)), labels)

    return loss


def boundary_weighted(model: nn.Module, context: LossContext) -> Loss:
    """The local part of DBFAT (Zhang et al. 2023, arXiv 2302.09479): images near the decision boundary count more.

    Loss: the mean of w CE(f(x'), y), with the weights of ``boundary_weights``. See ``common.methods.dbfat``.
    """
    asked = Asked(model)
    attack, noted = context.build_attack(asked), list[Tensor]()

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = attack(images, labels)
        if asked.answers or context.awp is None:  # AWP's second pass has the images of the first, without asking
            noted[:] = asked.take()
        weights = boundary_weights(noted, labels)
        each = F.cross_entropy(model(adversarial), labels, label_smoothing=context.label_smoothing, reduction="none")
        return (weights * each).mean()

    return loss


def _divergence(natural: Tensor, attacked: Tensor) -> Tensor:
    """KL(softmax(natural) ‖ softmax(attacked)) of each example: [B,N], [B,N] -> [B]."""
    logs = F.log_softmax(natural, 1)
    return (logs.exp() * (logs - F.log_softmax(attacked, 1))).sum(1)


def build_loss(name: str, model: nn.Module, context: LossContext) -> Loss:
    """Return a training method on ``model``.

    Args:
        name: a key of ``LOSSES``, or ``FILE.py:NAME`` of a function that is called as those are.
        model: from pixels [B,3,H,W] in [0, 1] to logits [B,N].
        context: what else it may need.

    Raises:
        FedShieldError: the user's function raises, or gives no loss; also when the loss is called.
    """
    if not is_user_code(name):
        return LOSSES[name](model, context)
    make = load_user_code("loss.name", name)
    with explain_user_code("loss.name", name):
        own = make(model, context)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        before = _state_of(model)
        with (
            torch.enable_grad(),
            explain_user_code("loss.name", name),
        ):  # with gradients on again, in case it has switched them off
            value = own(images, labels)
        if _state_of(model) != before:
            raise DeadEndError(
                f"loss.name = {name}: changes the mode or requires_grad of a part of the model; "
                "restore them before it returns"
            )
        if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
            raise DeadEndError(f"loss.name = {name}: must return the batch's loss, a scalar with a gradient")
        return value

    return loss


class TrainingMethod:
    """A training method on one network, for one client after the other.

    The loss is built once, if no client's data stays in it: a GPU then keeps using the batch that it has recorded.

    Args:
        name: as in ``build_loss``.
        model: from pixels [B,3,H,W] in [0, 1] to logits [B,N].
        context: what else the method may need; the class counts are those of each client.
    """

    def __init__(self, name: str, model: nn.Module, context: LossContext) -> None:
        self._name, self._model = name, model
        self._prior = torch.zeros(len(context.class_counts), device=next(model.parameters()).device)
        self._context = replace(context, prior=self._prior)
        self.awp = context.awp
        self.recordable = name in LOSSES and context.attack in _RECORDABLE
        self._loss: Loss | None = None

    def loss_for(self, labels: NDArray[np.int64]) -> Loss:
        """Return the loss for a client's training data.

        Args:
            labels: int64 [N] of that data, the shared images included.

        Raises:
            FedShieldError: as in ``build_loss``.
        """
        class_counts = tuple(np.bincount(labels, minlength=len(self._prior)).tolist())
        if self._name == "logit-calibrated":
            self._prior.copy_(label_margins(class_counts, self._context.margin_tau))
        else:
            self._prior.copy_(log_prior(class_counts, self._context.calibration.absent))
        if self._loss is None or not self.recordable:
            self._loss = build_loss(self._name, self._model, replace(self._context, class_counts=class_counts))
        return self._loss


def _state_of(model: nn.Module) -> list[bool]:
    """Return the mode of each module, and whether each weight requires a gradient."""
    return [part.training for part in model.modules()] + [weight.requires_grad for weight in model.parameters()]


# Attacks that decide nothing on the CPU, so that a GPU can record them (a mixture and DeepFool do decide there).
_RECORDABLE = frozenset({"none", "fgsm", "bim", "pgd", "kl", "cw"})
LOSSES: dict[str, Callable[[nn.Module, LossContext], Loss]] = {
    "pgd-at": pgd_at,
    "mixed-at": mixed_at,
    "trades": trades,
    "mart": mart,
    "calfat": calfat,
    "logit-calibrated": logit_calibrated,
    "boundary-weighted": boundary_weighted,
}
