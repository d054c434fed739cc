"""Catastrophic overfitting: a model that resists one step of an attack, and nothing longer."""

from collections.abc import Mapping

_GAP, _SHARE = 0.2, 0.5  # models that have learned to resist lose little of their accuracy from fgsm to pgd


def told_overfitting(accuracies: Mapping[str, float]) -> str:
    """Return a line if ``pgd`` breaks most of what ``fgsm`` leaves; empty if not, or if one of them was not measured.

    Wong et al. 2020 (arXiv 2001.03994) name what training with one step can run into: within an epoch,
    accuracy under FGSM rises, and under PGD falls to near 0.

    >>> told_overfitting({"natural": 0.7, "fgsm": 0.4, "pgd-10": 0.36})
    ''
    >>> told_overfitting({"natural": 0.8, "fgsm": 0.75, "pgd-10": 0.02})[:52]
    'fgsm leaves 75.0 % and pgd-10 2.0 %: catastrophic ov'

    Args:
        accuracies: in [0, 1], by label.
    """
    longer = [(value, label) for label, value in accuracies.items() if label.startswith("pgd-")]
    if "fgsm" not in accuracies or not longer:
        return ""
    (left, label), first = min(longer), accuracies["fgsm"]
    if first - left < _GAP or left > _SHARE * first:
        return ""
    return (
        f"fgsm leaves {100 * first:.1f} % and {label} {100 * left:.1f} %: catastrophic overfitting, the model resists "
        "a single step alone; train with more attack.steps, a lower train.learning-rate, or keep an earlier round by "
        "data.validation-fraction"
    )
