"""How much each reply counts, by rules that need no more of the updates than their inner products.

All these rules give a sum Σ sᵢ uᵢ of the updates u₁ to uₙ. Lengths and distances, also from such a sum, follow from the
matrix of the products uᵢ · uⱼ, so that every iteration is n × n, however large the network is.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = 1000  # of Weiszfeld's algorithm, at most
_SMOOTH = 1e-6  # its ν, as in RFA
_CLIPPINGS = 3


def inner_products(replies: Sequence[ArrayRecord], model: ArrayRecord, weights: Collection[str]) -> Floats:
    """Return the products of all pairs of updates, [n,n].

    Args:
        replies: n clients' models.
        model: the global one that they were trained from.
        weights: names of the arrays that are trained; the others are left out.
    """
    products = np.zeros((len(replies), len(replies)))
    for name in weights:
        before = model[name].numpy()
        updates = np.stack([(reply[name].numpy() - before).ravel().astype(np.float64) for reply in replies])
        products += updates @ updates.T
    return products


def mixed(products: Floats, malicious: int) -> Floats:
    """Nearest-neighbor mixing, NNM (Allouah et al. 2023, arXiv 2302.01772, algorithm 2).

    Each update becomes the mean of the n − f updates that are nearest to it, itself among them.

    Args:
        products: of the updates, [n,n].
        malicious: f.

    Returns:
        The shares of all updates in each new one, [n,n].
    """
    count = len(products)
    lengths = np.diag(products)
    near = np.argsort(lengths[:, None] + lengths - 2 * products, axis=1, kind="stable")[:, : count - malicious]
    shares: Floats = np.zeros((count, count))
    np.put_along_axis(shares, near, 1 / (count - malicious), axis=1)
    return shares


def clipped(products: Floats, malicious: int) -> Floats:
    """Adaptive robust clipping, ARC (Allouah et al. 2025, arXiv 2405.14432, algorithm 2).

    The k = ⌊2 (f / n) (n − f)⌋ longest updates are shortened to the length of the next one.

    Args:
        products: of the updates, [n,n].
        malicious: f.

    Returns:
        The shares of all updates in each new one, [n,n]: a diagonal.
    """
    count, lengths = len(products), np.sqrt(np.diag(products))
    most = np.sort(lengths)[count - 1 - 2 * malicious * (count - malicious) // count]
    return np.diag(_shortened(lengths, most))


def geometric_median(products: Floats, examples: Floats) -> Floats:
    """Geometric median, by the smoothed Weiszfeld algorithm of RFA (Pillutla et al. 2022, arXiv 1912.13445).

    It minimizes Σ αᵢ ‖v − uᵢ‖, with αᵢ = nᵢ / n. From the mean on, v is the mean with the weights
    αᵢ / max(ν, ‖v − uᵢ‖). RFA stops after a few such steps, because each costs a round of secure aggregation; here they
    go on until the weights stand still.

    Args:
        products: of the updates, [n,n].
        examples: nᵢ, images of each client, [n].
    """
    alpha = examples / examples.sum()
    shares: Floats = alpha
    for _ in range(_STEPS):
        pulls = alpha / np.maximum(_SMOOTH, _distances(products, shares))
        before, shares = shares, pulls / pulls.sum()
        if np.allclose(shares, before, rtol=1e-9, atol=0):  # a small share of a long update is not nothing
            break
    return shares


def centered_clipping(products: Floats, radius: float) -> Floats:
    """Centered clipping (Karimireddy et al. 2021, arXiv 2012.10333, equation 4 and algorithm 1).

    Three times, v becomes v + (1/n) Σ (uᵢ − v) min(1, τ / ‖uᵢ − v‖). The paper starts at the aggregate of the round
    before; here v starts at 0, the global model, which every resumed run knows.

    Args:
        products: of the updates, [n,n].
        radius: τ; 0 for the median of ‖uᵢ − v‖ in each step.
    """
    shares = np.zeros(len(products))
    for _ in range(_CLIPPINGS):
        far = _distances(products, shares)
        kept = _shortened(far, radius or float(np.median(far)))
        shares = shares * (1 - kept.mean()) + kept / len(kept)
    return shares


def trusted(products: Floats) -> Floats:
    """FLTrust (Cao et al. 2021, arXiv 2012.13995, algorithm 2): trust by the direction of the server's own update.

    With u₀ the server's, Tᵢ = max(0, cos(uᵢ, u₀)), and the sum is Σ Tᵢ (‖u₀‖ / ‖uᵢ‖) uᵢ / Σ Tᵢ. Where nobody is
    trusted, the model stays as it is.

    Args:
        products: of the n updates and, last, the server's, [n+1,n+1].
    """
    lengths = np.sqrt(np.diag(products))
    own, others = lengths[-1], np.where(lengths[:-1] > 0, lengths[:-1], np.inf)
    trust = np.maximum(0, products[:-1, -1] / others / max(own, np.finfo(float).tiny))
    shares: Floats = trust * own / others / (trust.sum() or 1)
    return shares


def greedy(loss: Callable[[Floats], float], count: int) -> Floats:
    """FedGreed (Kritharakis et al. 2025, arXiv 2508.18060): the clients' models that are best on the server's images.

    In the order of their own losses, one more model joins the mean, as long as the mean's loss does not rise. The
    paper's loss is that of natural images. Here it is the training loss, under attack: by the former, a client that
    trains without adversarial examples would be among the best.

    Args:
        loss: of the model with these shares of the updates, [n].
        count: n.
    """
    alone = np.eye(count)
    losses = [loss(shares) for shares in alone]
    order = np.argsort(losses, kind="stable")
    best: Floats = alone[order[0]]
    least = losses[order[0]]
    for number in range(2, count + 1):
        wider = alone[order[:number]].mean(axis=0)
        if not (found := loss(wider)) <= least:
            break
        best, least = wider, found
    return best


def _shortened(lengths: Floats, most: float) -> Floats:
    """Return the factors that leave no length above ``most``, [n]."""
    factors: Floats = np.divide(most, lengths, out=np.ones_like(lengths), where=lengths > most)
    return factors


def _distances(products: Floats, shares: Floats) -> Floats:
    """Return how far each update is from the sum with these shares, [n]."""
    along = products @ shares
    far: Floats = np.sqrt(np.maximum(shares @ along - 2 * along + np.diag(products), 0))
    return far


PRE: dict[str, Callable[[Floats, int], Floats]] = {"nnm": mixed, "arc": clipped}
