"""FedRBN."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.methods.fedbn import FedBN
from common.methods.method import Arrays, Reply, Turn
from common.training.losses import Loss

_STATISTICS = ("running_mean", "running_var")


class FedRBN(FedBN):
    """FedRBN (Hong et al. 2023, arXiv 2106.10196): robustness is passed on through statistics of batch normalization.

    Of the clients, ``federation.adversarial-clients`` can afford adversarial training; the others train naturally.
    Batch normalization stays with each client, as in FedBN. A client of the first kind trains on half the cross-entropy
    of natural images and half the local loss; only the latter moves its statistics. Its model has these. A client that
    trains naturally gets, in the place of its own, the mean of their statistics, each of those clients alike; its
    weights of batch normalization are its own. So a batch costs one pass of natural images more, or no attack at all.

    Built of the paper: local batch normalization, training on both kinds of images with statistics apart, and the
    statistics that are passed on, with equal weights (``--src_weight_mode eq`` of the authors' code). Not built:
    weights by the similarity of clean statistics, a second set of statistics for natural images with a detector that
    chooses between the two at inference, and the pseudo-noise loss. All clients send their statistics, so that the
    guard can compare them; the server uses those of the first kind alone.
    """

    replies_beside = records = True

    def beside_names(self, names: Collection[str], weights: Collection[str]) -> Collection[str]:
        """Return the statistics."""
        return [name for name in names if name.endswith(_STATISTICS)]

    def loss(self, turn: Turn, loss: Loss) -> Loss:
        """Return the natural loss that the client has, or half of it with half the local one."""
        if turn.client not in self.context.adversarial:
            return loss
        return _Halves(turn.model, loss, self.context.label_smoothing)

    def after(self, turn: Turn) -> Arrays:
        """Send the statistics; without adversarial training, they are no part of the client's own model."""
        statistics = turn.trained(self.beside_names(turn.received, turn.weights))
        if turn.client not in self.context.adversarial:
            turn.own = {name: array for name, array in turn.own.items() if name not in statistics}
        return statistics

    def shares(self, replies: Sequence[Reply], server_round: int) -> Sequence[float]:
        """Return numbers of images; note whose statistics are passed on."""
        self._givers = [reply.client in self.context.adversarial for reply in replies]
        return super().shares(replies, server_round)

    def combine(self, before: Arrays, mean: Arrays, beside: Sequence[Arrays], server: Arrays) -> Arrays:
        """Return the mean, with the statistics of the clients that train adversarially."""
        given = [arrays for arrays, gives in zip(beside, self._givers, strict=True) if gives]
        if not given:
            return mean
        return {**mean, **{name: torch.stack([arrays[name] for arrays in given]).mean(0) for name in given[0]}}

    def passes(self, local: float, trained: int) -> float:
        """Return those of a client that attacks: three for a natural image, and those of the local loss."""
        return 3 + local


@dataclass(frozen=True)
class _Halves:
    model: nn.Module
    local: Loss
    smoothing: float

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        with still_statistics(self.model):
            natural = F.cross_entropy(self.model(images), labels, label_smoothing=self.smoothing)
        return (natural + self.local(images, labels)) / 2


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Let no batch move the statistics of batch normalization until the block ends.

    To put them back afterwards, as ``keep_statistics`` does, would change them under a gradient that is still to come.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    before = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 0.0
    try:
        yield
    finally:
        for part, momentum in zip(norms, before, strict=True):
            part.momentum = momentum
