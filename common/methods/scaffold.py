"""SCAFFOLD."""

from collections.abc import Sequence

import torch

from common.methods.method import Arrays, EachAlike, Turn
from common.training.pull import LinearPull


class Scaffold(EachAlike):
    """SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1, option II): control variates against drift.

    Client i corrects each gradient: y ← y − η_l (g(y) − c_i + c). After K steps, c_i⁺ = c_i − c + (x − y) / (K η_l).
    The server keeps c: c ← c + |S| / N · mean of (c_i⁺ − c_i) over the |S| clients of the round, out of N.
    All variates start at zero, and η_g is 1. Every client counts alike, however many images it has.

    The paper's SGD has no momentum. With ``train.momentum`` β, which starts at zero in each round, K equal gradients g
    move the weights by η_l g · Σ (1 − βʲ) / (1 − β) over j = 1 to K; this takes the place of K η_l, so that the variate
    remains an estimate of the mean gradient.
    """

    keeps = replies_beside = True

    def pull(self, turn: Turn) -> LinearPull:
        """Return what adds c − c_i to the gradients."""
        return LinearPull(
            offset={name: self._of(turn.sent, turn, name) - self._of(turn.kept, turn, name) for name in turn.weights}
        )

    def after(self, turn: Turn) -> Arrays:
        """Return c_i⁺ − c_i, and keep c_i⁺."""
        if not turn.steps:
            return {name: torch.zeros_like(turn.received[name]) for name in turn.weights}
        beta, reach = turn.plan.momentum, 0.0
        for number in range(1, turn.steps + 1):
            reach += turn.plan.learning_rate * (1 - beta**number) / (1 - beta)
        own, changed = turn.trained(), {}
        for name in turn.weights:
            before = self._of(turn.kept, turn, name)
            now = before - self._of(turn.sent, turn, name) + (turn.received[name] - own[name]) / reach
            turn.kept[name], changed[name] = now, now - before
        return changed

    @staticmethod
    def _of(arrays: Arrays, turn: Turn, name: str) -> torch.Tensor:
        return arrays[name] if name in arrays else torch.zeros_like(turn.received[name])

    def sends(self, server: Arrays) -> Arrays:
        """Return c; nothing before the first round, where it is zero."""
        return server

    def combine(self, before: Arrays, mean: Arrays, beside: Sequence[Arrays], server: Arrays) -> Arrays:
        """Move c by the sum of the changes, divided by the number of all clients."""
        for name in beside[0]:
            change = torch.stack([changed[name] for changed in beside]).sum(0) / self.context.clients
            server[name] = server[name] + change if name in server else change
        return mean
