"""FedDyn."""

from collections.abc import Sequence

import torch

from common.methods.method import Arrays, EachAlike, Turn
from common.training.pull import LinearPull


class FedDyn(EachAlike):
    """FedDyn (Acar et al. 2021, arXiv 2111.04263, algorithm 1): a local objective that agrees with the global one.

    Client k minimizes L_k(θ) − ⟨g_k, θ⟩ + α/2 ‖θ − θ_t‖², then g_k ← g_k − α (θ_k − θ_t). The server keeps h:
    h ← h − α / m · Σ (θ_k − θ_t) over the clients of the round, out of m, and the model is mean of θ_k − h / α.
    All start at zero; α is ``method.dyn-alpha``. Every client counts alike, however many images it has. Statistics of
    batch normalization are averaged alone.

    A client that is asked for the first time, or that has lost what it kept, starts with g_k = 0.
    """

    keeps = replies_beside = True

    def pull(self, turn: Turn) -> LinearPull:
        """Return what adds α (θ − θ_t) − g_k to the gradients."""
        held = {name: -self._held(turn, name) for name in turn.weights}
        return LinearPull(turn.received, self.context.dyn_alpha, held)

    def after(self, turn: Turn) -> Arrays:
        """Return θ_k − θ_t, and keep the new g_k."""
        own, alpha = turn.trained(), self.context.dyn_alpha
        moved = {name: own[name] - turn.received[name] for name in turn.weights}
        for name, way in moved.items():
            turn.kept[name] = self._held(turn, name) - alpha * way
        return moved

    @staticmethod
    def _held(turn: Turn, name: str) -> torch.Tensor:
        return turn.kept[name] if name in turn.kept else torch.zeros_like(turn.received[name])

    def combine(self, before: Arrays, mean: Arrays, beside: Sequence[Arrays], server: Arrays) -> Arrays:
        """Return the mean less h / α, once h is brought up to date."""
        alpha, model = self.context.dyn_alpha, dict(mean)
        for name in beside[0]:
            moved = torch.stack([each[name] for each in beside]).sum(0) / self.context.clients
            server[name] = server.get(name, torch.zeros_like(moved)) - alpha * moved
            model[name] = mean[name] - server[name] / alpha
        return model
