"""The seam that every federated method fits: a client's part in a round, and the server's.

A method is a class. ``Method`` itself is FedAvg (McMahan et al. 2017, arXiv 1602.05629): each hook does nothing. One
object is made in each process, from the configuration alone; what has to live longer travels through the hooks:

- what a client keeps from its last turn to its next one is in ``Turn.kept``;
- what the server keeps is in the ``server`` arrays. Both are in the checkpoint of a simulation;
- what the server sends to all clients, beside the model, is what ``sends`` returns;
- what a client sends back, beside its weights, is what ``after`` returns;
- arrays of a client's own model, which never leave it, are in ``Turn.own``; see ``stays``.

Arrays are named as in the state dict of the model; what a client sends beside has the names and shapes of the weights.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from common.training.losses import Loss
from common.training.pull import LinearPull, Pull
from common.training.trainer import FitResult, TrainingPlan

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class MethodContext:
    """What a method may need of the run.

    Attributes:
        clients: in the whole federation.
        adversarial: the clients that can afford adversarial training; the others train naturally.
        label_smoothing: alpha of the soft labels, in [0, 1).
        prox_mu: μ of FedProx, >= 0.
        dyn_alpha: α of FedDyn, > 0.
        mix_share: share of each batch that MixFAT attacks, in (0, 1].
        dbfat_beta: β of DBFAT, >= 0.
        sfat_alpha: α of SFAT, in [0, 1).
        sfat_top: how many clients SFAT prefers, >= 1.
        dynat_epochs: E_0 of FedDynAT, >= 1.
        dynat_decay: γ of FedDynAT, in (0, 1].
        dynat_every: F of FedDynAT, >= 1.
        moon_mu: μ of MOON, >= 0.
        moon_temperature: τ of MOON, > 0.
        head_epochs: of the head in FedRep, >= 1.
        ditto_lambda: λ of Ditto, >= 0.
    """

    clients: int
    adversarial: frozenset[int]
    label_smoothing: float
    prox_mu: float
    dyn_alpha: float
    mix_share: float
    dbfat_beta: float
    sfat_alpha: float
    sfat_top: int
    dynat_epochs: int
    dynat_decay: float
    dynat_every: int
    moon_mu: float
    moon_temperature: float
    head_epochs: int
    ditto_lambda: float


@dataclass
class Turn:
    """One client's part in one round.

    Attributes:
        client: its number.
        server_round: from 1.
        model: with the global weights before training, and the client's own after it; ``before`` and ``after`` may
            change both.
        weights: names of the arrays that are trained, in the order in which ``pull`` gets them.
        received: the global model, for reading only; on the CPU.
        sent: what the server has sent beside it.
        plan: how the client is going to train; ``before`` may replace it.
        kept: what the client has kept from its last turn that counted; empty in its first one. ``after`` may change it.
        steps: of SGD that were made; 0 before training.
        own: arrays of the client's own model, as they were after its last turn that counted: with them in the place of
            the global ones, the global model is the client's. Those that stay are put there; a method may put others.
    """

    client: int
    server_round: int
    model: nn.Module
    weights: Sequence[str]
    received: Arrays
    sent: Arrays
    plan: TrainingPlan
    kept: Arrays = field(default_factory=dict)
    steps: int = 0
    own: Arrays = field(default_factory=dict)

    def trained(self, names: Collection[str] | None = None) -> Arrays:
        """Return copies of the model's weights, or of the arrays with these names, on the CPU."""
        state = self.model.state_dict()
        return {name: state[name].detach().cpu().clone() for name in (self.weights if names is None else names)}


class Fit(Protocol):
    """Trains the turn's model in place, on the client's images and with the loss of its turn."""

    def __call__(self, plan: TrainingPlan, pull: Pull | LinearPull | None = None, part: str = "") -> FitResult:
        """Return what was done.

        Args:
            plan: epochs, batches, rates, and what is not trained.
            pull: corrects the gradients of each step.
            part: of the turn, if it has several: each has random numbers of its own.
        """
        ...


@dataclass(frozen=True)
class Reply:
    """What the server knows of a valid reply, before it is averaged.

    Attributes:
        client: its number.
        examples: images trained on.
        loss: mean training loss of its last epoch.
    """

    client: int
    examples: int
    loss: float


class Method:
    """FedAvg. A subclass overrides the hooks that it needs.

    Attributes:
        name: as the configuration has it.
        keeps: whether clients keep something between rounds.
        personal: whether each client gets a model of its own, from ``Turn.own``; it must also keep.
        replies_beside: whether a client sends an array for each weight beside its weights; or other ones, see
            ``beside_names``.
        records: whether what ``loss`` returns decides nothing on the CPU, and equals (==) what it has returned before
            for an equal local loss; a GPU then records a batch and launches it as a whole.

    Args:
        context: what a method may need of the run.
    """

    name = ""
    keeps = False
    personal = False
    replies_beside = False
    records = True

    def __init__(self, context: MethodContext) -> None:
        self.context = context

    def check(self, model: nn.Module) -> None:
        """Check, before the first round, that the method can train such a network.

        Raises:
            FedShieldError: one line that says why it cannot.
        """

    def passes(self, local: float, trained: int) -> float:
        """Return the arithmetic of training on one image, in forward passes of the network.

        Args:
            local: the same, with the local loss alone.
            trained: how many images the local loss puts through the network in training mode, for each image.
        """
        return local

    # At the client, in this order.

    def stays(self, model: nn.Module) -> Collection[str]:
        """Return the names of the arrays that never leave the client.

        It trains its own ones, and sends in their place the values that it has received.
        """
        return ()

    def before(self, turn: Turn) -> None:
        """Prepare: change the model that the client starts from, or its plan."""

    def loss(self, turn: Turn, loss: Loss) -> Loss:
        """Return the loss to train with: the local one, or one made from it."""
        return loss

    def pull(self, turn: Turn) -> Pull | LinearPull | None:
        """Return what corrects the gradients of each step; a GPU can record it only if it is a ``LinearPull``."""
        return None

    def train(self, turn: Turn, fit: Fit) -> FitResult:
        """Train the model, once by the plan of the turn, or in parts; what the last of them did is returned."""
        return fit(turn.plan, self.pull(turn))

    def after(self, turn: Turn) -> Arrays:
        """Return what to send beside the weights; change what is kept, or what is sent as the client's model."""
        return {}

    # At the server.

    def beside_names(self, names: Collection[str], weights: Collection[str]) -> Collection[str]:
        """Return the names of what ``after`` returns, if ``replies_beside``; its shapes are those of the model.

        Args:
            names: of all arrays of the model.
            weights: of those that are trained.
        """
        return weights

    def sends(self, server: Arrays) -> Arrays:
        """Return what all clients of the next round receive beside the model.

        Args:
            server: what the server keeps; empty before the first round.
        """
        return {}

    def shares(self, replies: Sequence[Reply], server_round: int) -> Sequence[float]:
        """Return how much each reply counts in the mean, in any unit: FedAvg's number of images."""
        return [reply.examples for reply in replies]

    def combine(self, before: Arrays, mean: Arrays, beside: Sequence[Arrays], server: Arrays) -> Arrays:
        """Return the new global model.

        Args:
            before: the global model of this round.
            mean: the mean of the replies.
            beside: what the clients have sent beside their weights, in client order.
            server: what the server keeps; may be changed.
        """
        return mean

    @classmethod
    def recordable(cls) -> bool:
        """Return whether a GPU can record a batch: ``records`` stands in the class whose ``loss`` is used."""
        owner = next(kind for kind in cls.__mro__ if "loss" in vars(kind))
        return bool(vars(owner).get("records", False))

    @classmethod
    def weighs(cls) -> bool:
        """Return whether replies count otherwise than by their images."""
        return cls.shares is not Method.shares

    @classmethod
    def combines(cls) -> bool:
        """Return whether the new model is another one than the mean."""
        return cls.combine is not Method.combine


class EachAlike(Method):
    """A method in which every client counts alike, however many images it has."""

    def shares(self, replies: Sequence[Reply], server_round: int) -> Sequence[float]:
        """Return the same for all."""
        return [1.0] * len(replies)
