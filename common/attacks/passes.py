"""How much arithmetic an attack of an evaluation takes, in forward passes of an image; without torch.

The gradient with respect to an image costs as much as a forward pass, as in ``common.models.flops``. Restarts, and the
parts of AutoAttack after its first, are run on what the ones before did not break: half of the images are taken for it.
"""

from common.attacks.threat import AttackSpec

_SURVIVING = 0.5
_DEEPFOOL_STEPS = 10  # it ends when an image is fooled; torchattacks allows 50
_FAB = 3  # passes in each of its steps: one with a gradient, one on the point that it has reached


def attack_passes(label: str, classes: int) -> float | None:
    """Return the passes that an attack takes for each image, or None for a user's own.

    Args:
        label: as in ``evaluate.attacks``.
        classes: number of logits.
    """
    spec = AttackSpec.parse(label)
    targets = min(classes, 10) - 1
    iterated = 2 * spec.steps
    known = {
        "fgsm": 2,
        "bim": iterated,
        "pgd": iterated,
        "cw": iterated,
        "apgd-ce": 2 * (spec.steps or 100),
        "apgd-t": 2 * targets * (spec.steps or 100),
        "fab-t": _FAB * targets * (spec.steps or 100),
        "square": spec.steps or 5000,
        "deepfool": _DEEPFOOL_STEPS * (1 + classes),
        "cw-l2": 2 * (spec.steps or 100),
    }
    if spec.name == "autoattack":
        first, *others = (_known(part, classes) for part in ("apgd-ce", "apgd-t", "fab-t", "square"))
        return first + _SURVIVING * sum(others)
    if spec.name not in known:
        return None
    return 1 + known[spec.name] * (1 + _SURVIVING * (spec.restarts - 1))


def _known(label: str, classes: int) -> float:
    return attack_passes(label, classes) or 0.0
