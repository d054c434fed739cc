"""Adversarial attacks by name, all through torchattacks, on models that take pixels in [0, 1]."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from common.attacks.expectation import Averaged
from common.attacks.minimal import Attack, MinimalAttack
from common.attacks.threat import FAMILIES, L2, AttackSpec, Minimal, Threat
from common.errors import DeadEndError, FedShieldError
from common.models.fast_network import fast_network
from common.models.modes import keep_modes, ways_of
from common.user_code import explain_user_code, is_user_code, load_user_code

__all__ = ["Attack", "MinimalAttack", "attack_mode", "build_attack", "check_classes"]

OF_EVALUATION = "attack of the evaluation"  # names one in messages; one of training is named by its key
_ROUNDING = 1e-6  # of a pixel, in float32


@contextmanager
def attack_mode(model: nn.Module) -> Iterator[None]:
    """Put the whole model into eval mode, and restore every module's own mode afterwards.

    Batch normalization in training mode would let the attack shift the running statistics and see the other images of
    its batch. torchattacks switches the mode too, but then puts *all* modules into training mode, frozen ones included.
    """
    with keep_modes(model):
        model.eval()
        yield


def build_attack(
    name: str,
    model: nn.Module,
    threat: Threat,
    classes: int = 10,
    key: str = "attack.name",
    fast: bool = False,
    eot: int = 1,
) -> Attack:
    """Return the attack on ``model``, which sees the model's weights as they are at each call.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    >>> attack = build_attack("pgd", model, Threat.from_255(epsilon=8, step=2, steps=10))
    >>> images, labels = torch.rand(2, 3, 8, 8), torch.tensor([4, 9])
    >>> adversarial = attack(images, labels)
    >>> 0 < float((adversarial - images).abs().max()) <= 8 / 255 + 1e-6
    True

    Args:
        name: ``none``, a key of ``ATTACKS``, or ``FILE.py:NAME`` of a function that is called as those are.
        model: from pixels [B,3,H,W] in [0, 1] to logits [B,N].
        threat: budget and steps; a ``MinimalAttack`` has no budget.
        classes: N, for the attacks that aim at each class in turn.
        key: where the attack was named, for messages.
        fast: attack the network with batch normalization folded into its convolutions, where this is the same network
            up to rounding. A user's attack gets the network as it is, also where ``eot`` is above 1.
        eot: attack the mean of the logits over so many forward passes, for a randomized network; without ``fast``.

    Raises:
        FedShieldError: the attack needs more classes, or the user's function is missing or raises; also, when the
            attack is called, a result outside the ball or a changed model.
    """
    if name == "none":  # no check of the model is needed, and for small networks it would cost time
        return lambda images, labels: images
    if is_user_code(name):
        return _own(name, model, threat, classes, key)
    quick = fast_network(model) if fast else None
    attacked = quick or (Averaged(model, eot) if eot > 1 else model)
    attack = _build(name, attacked, threat, classes)
    guards = [attack_mode] if name not in _BACKWARD else [attack_mode, _frozen]

    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        if name in AUTOATTACK:  # they set the global seed to their own; here their seed is drawn from the global one
            attack.seed = int(torch.randint(2**31, ()).item())
        with ExitStack() as stack:
            for guard in guards:
                stack.enter_context(guard(model))
            if quick is not None:
                quick.refresh(images)
            adversarial: Tensor = attack(images, labels).detach()
        return adversarial

    return MinimalAttack(perturb) if isinstance(FAMILIES.get(name), Minimal) else perturb


def _build(name: str, model: nn.Module, threat: Threat, classes: int) -> Any:
    if threat.norm == L2:
        from common.attacks.l2 import GRADIENT, build_l2

        if name in GRADIENT:
            return build_l2(name, model, threat)
    return ATTACKS[name](model, threat, classes)


def _own(name: str, model: nn.Module, threat: Threat, classes: int, key: str) -> Attack:
    """Return a user's attack; what it makes must lie in the ball."""
    make = load_user_code(key, name)
    with _untouched(model, key, name), explain_user_code(key, name):
        attack = make(model, threat, classes)

    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        with attack_mode(model), _frozen(model), _untouched(model, key, name), explain_user_code(key, name):
            # Copies: what it writes into is not what its result is compared with.
            adversarial = attack(images.clone(), labels.clone())
            if not isinstance(adversarial, Tensor) or adversarial.shape != images.shape:
                what = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial).__name__
                raise DeadEndError(
                    f"{key} = {name}: returns {what} for images {tuple(images.shape)}; return such images"
                )
            if adversarial.is_complex():
                raise DeadEndError(f"{key} = {name}: returns {adversarial.dtype}; return float32")
            adversarial = adversarial.detach().to_dense().to(images)
        change = adversarial - images
        furthest = change.flatten(1).norm(dim=1).max() if threat.norm == L2 else change.abs().max()
        outside = (adversarial - adversarial.clamp(0, 1)).abs().max()
        if not (furthest <= threat.epsilon + _ROUNDING and outside <= _ROUNDING):  # also where either is not a number
            what = "an image moves by an L2 length of" if threat.norm == L2 else "a pixel moves by"
            how = "shorten" if threat.norm == L2 else "clamp"
            raise DeadEndError(
                f"{key} = {name}: {what} {255 * furthest:.4g}/255 and lies {255 * outside:.4g}/255 outside "
                f"[0, 1]; epsilon is {255 * threat.epsilon:.4g}/255: {how} what it returns"
            )
        return adversarial

    return perturb


@contextmanager
def _untouched(model: nn.Module, key: str, name: str) -> Iterator[None]:
    """Check that a user's attack leaves the model as it is: all that follows would measure, or train, another one.

    Raises:
        FedShieldError: it has changed weights or statistics, or has left a hook or another ``forward``.
    """
    before = {part: value.clone() for part, value in model.state_dict().items()}
    ways = ways_of(model)
    with torch.enable_grad():  # restores the setting at its end, whatever the attack has switched off
        yield
    changed = [part for part, value in model.state_dict().items() if not torch.equal(value, before[part])]
    if changed or ways_of(model) != ways:
        what = changed[0] if changed else "a hook, a part or a forward of it"
        raise DeadEndError(f"{key} = {name}: changes the model ({what}); attack a copy of it, or do not change it")


def check_classes(labels: Iterable[str], classes: int) -> None:
    """Refuse attacks that need more classes than there are.

    Args:
        labels: of attacks, as ``AttackSpec.parse`` reads them.
        classes: number of logits.

    Raises:
        FedShieldError: the targeted DLR loss looks at the four largest logits, and there are fewer.
    """
    if any(AttackSpec.parse(label).family.classes > classes for label in labels):
        raise FedShieldError(
            f"apgd-t and autoattack cannot run: the targeted DLR loss needs 4 classes, the model has {classes}; "
            "measure it with apgd-ce, fab-t and square"
        )


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze the weights: FAB, DeepFool and C&W call backward(), which would fill every weight's gradient."""
    moving = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in moving:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in moving:
            weight.requires_grad_(True)


def _fgsm(model: nn.Module, threat: Threat, classes: int) -> Any:
    """Goodfellow et al. 2015, arXiv 1412.6572."""
    import torchattacks

    return torchattacks.FGSM(model, eps=threat.epsilon)


def _bim(model: nn.Module, threat: Threat, classes: int) -> Any:
    """Kurakin et al. 2017, arXiv 1607.02533: PGD without the random start."""
    import torchattacks

    return torchattacks.BIM(model, eps=threat.epsilon, alpha=threat.step, steps=threat.steps)


def _pgd(model: nn.Module, threat: Threat, classes: int) -> Any:
    """Madry et al. 2018, arXiv 1706.06083, from a uniformly random start."""
    import torchattacks

    return torchattacks.PGD(model, eps=threat.epsilon, alpha=threat.step, steps=threat.steps, random_start=True)


def _kl(model: nn.Module, threat: Threat, classes: int) -> Any:
    """Zhang et al. 2019, arXiv 1901.08573, algorithm 1: PGD on the KL divergence from the natural prediction."""
    import torchattacks

    return torchattacks.TPGD(model, eps=threat.epsilon, alpha=threat.step, steps=threat.steps)


def _cw(model: nn.Module, threat: Threat, classes: int) -> Any:
    """The margin of Carlini and Wagner 2017 (arXiv 1608.04644) in an Linf ball: PGD on it, from a random start."""
    from common.attacks.cw_linf import MarginPGD

    return MarginPGD(model, eps=threat.epsilon, alpha=threat.step, steps=threat.steps, random_start=True)


def _apgd_ce(model: nn.Module, threat: Threat, classes: int) -> Any:
    """Croce and Hein 2020, arXiv 2003.01690; torchattacks' own default is 10 steps, AutoAttack's standard is 100."""
    import torchattacks

    return torchattacks.APGD(model, norm=threat.ball, eps=threat.epsilon, steps=threat.steps or 100, loss="ce")


def _apgd_t(model: nn.Module, threat: Threat, classes: int) -> Any:
    """Croce and Hein 2020: APGD on the targeted DLR loss, at each of the nine likeliest wrong classes."""
    import torchattacks

    check_classes(["apgd-t"], classes)
    targets = min(classes, 10)  # torchattacks aims at one class fewer
    return torchattacks.APGDT(model, norm=threat.ball, eps=threat.epsilon, steps=threat.steps or 100, n_classes=targets)


def _fab_t(model: nn.Module, threat: Threat, classes: int) -> Any:
    """Croce and Hein 2020, arXiv 1907.02044: minimal distortion towards each of the nine likeliest wrong classes."""
    import torchattacks

    steps, targets = threat.steps or 100, min(classes, 10)
    return torchattacks.FAB(
        model, norm=threat.ball, eps=threat.epsilon, steps=steps, multi_targeted=True, n_classes=targets
    )


def _square(model: nn.Module, threat: Threat, classes: int) -> Any:
    """Andriushchenko et al. 2020, arXiv 1912.00049: a black box, which asks for logits and never for a gradient.

    AutoAttack's standard lets the squares shrink as if there were 10,000 queries, though it stops after 5,000;
    torchattacks' default shrinks them twice as fast.
    """
    import torchattacks

    return torchattacks.Square(
        model, norm=threat.ball, eps=threat.epsilon, n_queries=threat.steps or 5000, resc_schedule=False
    )


def _deepfool(model: nn.Module, threat: Threat, classes: int) -> Any:
    """Moosavi-Dezfooli et al. 2016, arXiv 1511.04599: the nearest linearized boundary, in L2, without a budget.

    torchattacks takes one image after the other, so a large set takes long.
    """
    import torchattacks

    return torchattacks.DeepFool(model, steps=threat.steps or 50, overshoot=0.02)


def _cw_l2(model: nn.Module, threat: Threat, classes: int) -> Any:
    """Carlini and Wagner 2017, arXiv 1608.04644, in L2, without a budget and without the search for c.

    torchattacks stops when the cost summed over the batch no longer falls, so the result depends on the batching; and
    in its tanh space a pixel that is exactly 0 or 1 never moves.
    """
    import torchattacks

    return torchattacks.CW(model, c=1, kappa=0, steps=threat.steps or 100, lr=0.01)


# Which of them stay in the ball, and what may follow their names: ``threat.FAMILIES``.
ATTACKS: dict[str, Callable[[nn.Module, Threat, int], Any]] = {
    "fgsm": _fgsm,
    "bim": _bim,
    "pgd": _pgd,
    "kl": _kl,
    "cw": _cw,
    "apgd-ce": _apgd_ce,
    "apgd-t": _apgd_t,
    "fab-t": _fab_t,
    "square": _square,
    "deepfool": _deepfool,
    "cw-l2": _cw_l2,
}
AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")
_BACKWARD = frozenset({"fab-t", "deepfool", "cw-l2"})
