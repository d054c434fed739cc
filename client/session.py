"""What a process needs to train the clients of one run: built once, used for every message."""

import logging
from dataclasses import replace
from functools import lru_cache

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from client.kept import read_kept, write_kept
from client.poison import poison_data, poison_loss, poison_model
from common.config.flat import Flat
from common.config.schema import RunConfig, parse_config
from common.data.datasets import Dataset
from common.factory import (
    adversarial_clients,
    check_batches,
    client_data,
    make_federated_method,
    make_method,
    make_model,
    make_natural_method,
    make_trainer,
    prepare_torch,
    training_plan,
)
from common.machine import hidden_gpu
from common.messages.protocol import FINE_TUNE
from common.messages.records import to_record, to_state
from common.messages.shared_slice import Examples
from common.methods.checks import (
    check_plan,
    check_prepared,
    check_pull,
    check_trained,
    check_turn,
    names_that_stay,
    own_copies,
)
from common.methods.method import Arrays, Turn
from common.methods.personal import Kept
from common.models.networks import load_state
from common.seeding import seed_for
from common.training.losses import TrainingMethod
from common.training.pull import LinearPull, Pull
from common.training.trainer import FitResult, Trainer, TrainingPlan

log = logging.getLogger("fedshield")

_HIDDEN = (
    "this machine has a GPU, but this client may not use it and computes on the CPU; with flwr run, add "
    "client-resources-num-gpus=1 to --federation-config (0.5 = two clients on a GPU)"
)


class Session:
    """Network and optimizer buffers of one run.

    A client leaves no trace for the next one: weights and buffers are overwritten, and every random number is drawn
    from the client's own seed.

    Args:
        config: of the run.
        place: the directory of this machine's only client, where it is not at ``data.root``.
    """

    def __init__(self, config: RunConfig, place: str) -> None:
        self.config = config
        self._place = place
        self._device = prepare_torch(config.threads)
        if hidden_gpu():
            log.warning("%s", _HIDDEN)
        self._made: tuple[Trainer, TrainingMethod, TrainingMethod] | None = None
        self._able = adversarial_clients(config)
        self._federated = make_federated_method(config)

    def prepare(self, client: int) -> tuple[Dataset, Trainer, TrainingMethod]:
        """Return one client's own training images, and what trains on them."""
        own = client_data(self.config, client, self._place)
        if self._made is None:
            model = make_model(self.config, len(own.classes)).to(self._device)
            method = make_method(self.config, model, len(own.classes))
            natural = make_natural_method(self.config, model, len(own.classes))
            self._made = make_trainer(model, self.config, method, self._federated.recordable()), method, natural
        trainer, method, natural = self._made
        return own, trainer, method if client in self._able else natural

    def _plan(self, method: TrainingMethod, epochs: int, server_round: int) -> TrainingPlan:
        """Return how to train; who cannot afford adversarial training does not pay the pass of AWP either."""
        plan = training_plan(self.config, epochs, server_round, self.config.federation.rounds)
        return replace(plan, perturbed=method.awp is not None)

    def identify(self, client: int) -> int:
        """Return how many images a client has, once they are ready and can be trained on."""
        own, trainer, _ = self.prepare(client)
        alone = len(own.labels) == 1 and self.config.sharing.fraction == 0
        check_batches(self.config, trainer.model, alone)
        return len(own.labels)

    def train(
        self,
        client: int,
        server_round: int,
        arrays: ArrayRecord,
        sent: Arrays,
        shared: Examples | None,
        state: RecordDict,
        counted: int,
        lies: bool = False,
    ) -> tuple[ArrayRecord, Arrays, FitResult]:
        """Train the global model on one client's own images followed by the shared ones.

        Args:
            client: its number.
            server_round: counted from 1.
            arrays: the global model.
            sent: what the server has sent beside it.
            shared: images uint8 [S,3,H,W] and labels int64 [S], or None.
            state: what Flower keeps for the client; changed if the method keeps something.
            counted: round of the client's last turn that the server took; 0 for none.
            lies: train as ``byzantine.attack`` says.

        Returns:
            The trained weights, what to send beside them, and what was done.
        """
        own, trainer, method = self.prepare(client)
        received = to_state(arrays)
        plan = self._plan(method, self.config.train.local_epochs, server_round)
        images, labels = own.images, own.labels
        if shared is not None:
            images, labels = np.concatenate([images, shared[0]]), np.concatenate([labels, shared[1]])
        attack = self.config.byzantine.attack if lies else ""
        poison = seed_for(self.config.seed, "poison", client)
        images, labels = poison_data(attack, images, labels, len(own.classes), poison)
        seed = seed_for(self.config.seed, "train", server_round, client)
        federated = self._federated
        own_received, sent = own_copies(federated, received), own_copies(federated, sent)
        turn = Turn(client, server_round, trainer.model, trainer.names, own_received, sent, plan)
        stays = self._begin(turn, state, counted)
        federated.before(turn)
        check_prepared(federated, turn, trainer.model)
        loss = federated.loss(turn, poison_loss(attack, trainer.model, method.loss_for(labels)))
        seconds: list[float] = []

        def fit(plan: TrainingPlan, pull: Pull | LinearPull | None = None, part: str = "") -> FitResult:
            own_seed, pull = seed_for(seed, part) if part else seed, check_pull(federated, pull, turn)
            done = trainer.fit(images, labels, loss, check_plan(federated, plan, turn), own_seed, pull=pull)
            seconds.append(done.seconds)
            return done

        result = replace(check_trained(federated, federated.train(turn, fit)), seconds=sum(seconds))
        turn.steps = result.steps
        poison_model(attack, trainer.model, images, labels)
        turn.own |= turn.trained(stays)
        beside = federated.after(turn) or {}
        check_turn(federated, beside, turn)
        if federated.keeps:
            write_kept(state, self.config.method.name, Kept(turn.kept, turn.own).together(), server_round, counted)
        unsent = {name: received[name].to(self._device) for name in stays}
        return to_record({**trainer.model.state_dict(), **unsent}), beside, result

    def _begin(self, turn: Turn, state: RecordDict, counted: int) -> frozenset[str]:
        """Give a turn what the client has kept, and the model its weights; return the names of the arrays that stay."""
        stays = names_that_stay(self._federated, turn.model)
        if self._federated.keeps:
            kept = Kept.of(self._kept(state, turn, counted))
            turn.kept, turn.own = kept.method, kept.own
        load_state(turn.model, {**turn.received, **{name: turn.own[name] for name in stays if name in turn.own}})
        return stays

    def fine_tune(
        self, client: int, server_round: int, arrays: ArrayRecord, state: RecordDict, counted: int
    ) -> FitResult:
        """Train a client's model on its own images alone, by the local loss; it stays with the client.

        Args:
            client: its number.
            server_round: the last one.
            arrays: the global model after it.
            state: what Flower keeps for the client; changed.
            counted: as in ``train``.
        """
        own, trainer, method = self.prepare(client)
        config = self.config
        plan = self._plan(method, config.method.fine_tune_epochs, server_round)
        turn = Turn(client, server_round, trainer.model, trainer.names, to_state(arrays), {}, plan)
        self._begin(turn, state, counted)
        seed = seed_for(config.seed, FINE_TUNE, client)
        result = trainer.fit(own.images, own.labels, method.loss_for(own.labels), plan, seed)
        kept = Kept(turn.kept, turn.own, turn.trained(turn.received))
        write_kept(state, config.method.name, kept.together(), server_round, counted if self._federated.keeps else 0)
        return result

    def _kept(self, state: RecordDict, turn: Turn, counted: int) -> Arrays:
        """Return what the client kept in its last turn that counted; it says so if it has lost that."""
        kept = read_kept(state, self.config.method.name, counted)
        if kept is None:
            log.warning(
                "round %d: client %d has lost what method.name = %s kept in round %d; it starts again with nothing",
                *(turn.server_round, turn.client, self.config.method.name, counted),
            )
        return kept or {}


def session_for(run_config: Flat, place: str) -> Session:
    """Return this process's session of a run; another configuration takes its place."""
    return _session(tuple(run_config.items()), place)


@lru_cache(maxsize=1)
def _session(run_config: tuple[tuple[str, object], ...], place: str) -> Session:
    return Session(parse_config(dict(run_config)), place)
