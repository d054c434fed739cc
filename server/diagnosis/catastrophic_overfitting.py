"""Catastrophic overfitting: the model resists the training attack, and nothing longer."""

from statistics import median
from typing import ClassVar

from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Lines, percent, signal

_GAP, _LEFT = 0.2, 0.5  # as ``common.evaluation.overfitting``
_JUMP = 0.12


class CatastrophicOverfitting:
    """Accuracy under the training attack is far above that under PGD-10, from a random start, on the same images.

    Wong et al. 2020 (arXiv 2001.03994); Andriushchenko and Flammarion 2020 (arXiv 2007.02617). Mild: the gap has jumped
    above that of the rounds before, and PGD-10 breaks a third of what the training attack leaves.
    """

    name: ClassVar[str] = "catastrophic-overfitting"
    images: ClassVar[bool] = True
    replies: ClassVar[bool] = False

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Compare the two in the last round; see ``Trouble.judge``."""
        key = "training-attack" if about.training else "fgsm"
        trained, longer = signal(lines[-1], key), signal(lines[-1], "pgd")
        if not about.adversarial or trained is None or longer is None:
            return None
        gap = trained - longer
        known = [line for line in lines if signal(line, key) is not None and signal(line, "pgd") is not None]
        gaps = [signal(line, key) - signal(line, "pgd") for line in known]
        usual = median(gaps[:-1]) if len(gaps) > 3 else 0.0
        if gap >= _GAP and longer <= _LEFT * trained:
            severity = SEVERE
        elif gap - usual >= _JUMP and longer <= 2 / 3 * trained:
            severity = MILD
        else:
            return None
        what = f"{about.training or 'fgsm'}{', the training attack,' if about.training else ''}"
        return Found(severity, f"{what} leaves {percent(trained)} and pgd-10 {percent(longer)} of the same images")
