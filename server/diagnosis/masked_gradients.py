"""Masked gradients: attacks that follow the gradient fail, and not because the model is robust."""

from typing import ClassVar

from common.statistics import binomial_tail, sign_test
from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Line, Lines, signal

_LEVEL = 0.001  # of each test in each round: there are many rounds
_USUAL_GAPS = (1e-3, 100.0)  # between the two largest logits; further out, float32 has no gradient of cross-entropy
_FEWEST, _ONE_CLASS = 10, 0.95  # correct images that are enough; share of one class at which there is no gradient
_ZERO = 0.05  # share of gradients that are exactly zero


class MaskedGradients:
    """The checks of ``common.evaluation.sanity_checks`` that a small sample allows, in two rounds in succession.

    Carlini et al. 2019 (arXiv 1902.06705, section 5); Athalye et al. 2018 (arXiv 1802.00420, section 3).
    """

    name: ClassVar[str] = "masked-gradients"
    images: ClassVar[bool] = True
    replies: ClassVar[bool] = False

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Judge the last round, and whether the one before was the same; see ``Trouble.judge``."""
        told = _told(lines[-1])
        if not told or len(lines) < 2 or not _told(lines[-2]):
            return None
        return Found(SEVERE if about.adversarial else MILD, "; ".join(told))


def _told(line: Line) -> list[str]:
    """Say which checks fail in a round."""
    checks, n = signal(line, "gradients"), signal(line, "n")
    if not checks:
        return []
    told = []
    correct, zero = checks["correct"], checks["zero"]
    collapsed = signal(line, "most-predicted")["share"] > _ONE_CLASS
    if correct >= _FEWEST and zero > max(1, _ZERO * correct) and not collapsed:
        told.append(f"the gradient is exactly zero for {zero} of {correct} images")
    alone, reverse = checks["one-step"]
    if sign_test(alone, reverse) < _LEVEL:
        told.append(f"fgsm breaks {alone} images that pgd-10 does not, and pgd-10 {reverse} that fgsm does not")
    left = checks["large-budget"]
    if binomial_tail(left, n, checks["chance"]) < _LEVEL:
        told.append(f"pgd-10 without a limit that a person would accept leaves {left} of {n} images, more than chance")
    gap = checks["logit-gap"]
    if gap is not None and not _USUAL_GAPS[0] <= gap <= _USUAL_GAPS[1] and signal(line, "pgd") > checks["chance"]:
        told.append(f"the two largest logits differ by {gap:.2g} in the median, where attacks on cross-entropy fail")
    return told
