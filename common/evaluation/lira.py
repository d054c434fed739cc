"""LiRA-lite: the offline likelihood ratio attack of Carlini et al. 2022 (arXiv 2112.03570), with few shadow models.

An image that is easy for every model is no sign of training. So the attacker trains shadow models as the attacked one
was trained, on images of the same kind, and looks at how sure those are of an image that did *not* see it. Offline: no
model needs to be trained for an image that is asked about. Lite: a handful of models, one variance for all images
(which the paper advises for few models), one question an image.
"""

import numpy as np
from numpy.typing import NDArray

from common.errors import FedShieldError
from common.seeding import rng_for

Floats = NDArray[np.float64]


def check_shadows(shadows: int) -> None:
    """Refuse an odd number of shadow models.

    Raises:
        FedShieldError: they are trained in pairs.
    """
    if shadows % 2:
        raise FedShieldError(
            f"--shadows {shadows}: shadow models are trained in pairs, on the two halves of the attacker's images, so "
            f"that each image is new to one of them; give {shadows - 1} or {shadows + 1}"
        )


def shadow_halves(count: int, shadows: int, seed: int) -> NDArray[np.bool_]:
    """Return which of the attacker's images each shadow model is trained on, bool [``shadows``, ``count``].

    Each pair of models has a random half and the other half, so every image is new to exactly half of all models.

    Args:
        count: of the images, >= 2.
        shadows: even, >= 2.
        seed: of the draws, >= 0.
    """
    seen = np.zeros((shadows, count), np.bool_)
    for pair in range(shadows // 2):
        half = rng_for(seed, "shadow-halves", pair).permutation(count)[: count // 2]
        seen[2 * pair, half] = True
        seen[2 * pair + 1] = ~seen[2 * pair]
    return seen


def lira_scores(target: Floats, shadows: Floats, seen: NDArray[np.bool_]) -> Floats:
    """Return the score of each image: (φ - μ) / σ, float64 [N].

    The one-sided test of equation 4 is Λ = 1 - P(Z > φ) with Z ~ N(μ, σ²), which rises with this score, and would be
    rounded to 1 for the surest images. φ is the attacked model's confidence, μ the mean φ of the shadow models to which
    the image is new, σ the standard deviation of all such φ, of all images: the paper's global variance.

    Args:
        target: float64 [N], φ of the attacked model; see ``confidences``.
        shadows: float64 [S,N], φ of each shadow model.
        seen: bool [S,N], which images each was trained on; each image is new to at least one.
    """
    unseen = ~seen
    mean = (shadows * unseen).sum(0) / unseen.sum(0)
    spread = float(shadows[unseen].std()) or 1.0  # all alike: the order does not depend on it
    scores: Floats = (target - mean) / spread
    return scores
