"""Robust overfitting: training goes on to fit, and robust accuracy on other images falls."""

from typing import ClassVar

from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Lines, percent, signal, smooth

_WINDOW = 3  # rounds in a mean: the images are few
_SINCE = 4  # rounds since the best mean
_MILD, _SEVERE = 0.06, 0.12
_LEFT = 0.6  # of the best: severe, too, where there were no 12 points to lose
_FELL = 0.97  # how far the loss must have fallen meanwhile, as a factor


class RobustOverfitting:
    """The mean of PGD-10 accuracy over three rounds has fallen from its best, while the training loss has fallen too.

    Rice et al. 2020 (arXiv 2002.11569).
    """

    name: ClassVar[str] = "robust-overfitting"
    images: ClassVar[bool] = True
    replies: ClassVar[bool] = False

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Compare the last rounds with the best ones; see ``Trouble.judge``."""
        known = [line for line in lines if signal(line, "pgd") is not None and line.get("loss") is not None]
        if not about.adversarial or len(known) < _WINDOW + _SINCE:
            return None
        means = smooth([signal(line, "pgd") for line in known], _WINDOW)
        losses = smooth([line["loss"] for line in known], _WINDOW)
        best = max(range(len(means)), key=lambda place: means[place])
        fall = means[best] - means[-1]
        if len(means) - 1 - best < _SINCE or fall < _MILD or losses[-1] > _FELL * losses[best]:
            return None
        return Found(
            SEVERE if fall >= _SEVERE or means[-1] <= _LEFT * means[best] else MILD,
            f"pgd-10 accuracy on held-out images has fallen from {percent(means[best])} around {about.unit} "
            f"{known[best + 1]['round']} to {percent(means[-1])}, while the training loss fell from {losses[best]:.3g} "
            f"to {losses[-1]:.3g} (means over {_WINDOW} {about.unit}s)",
        )
