"""Models of the clients' own: what must be known before the first round, and how good they are after the last."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.errors import FedShieldError
from common.evaluation.evaluate import BATCH, Evaluation, evaluate
from common.evaluation.personal import put_together
from common.factory import adversarial_clients, evaluation_threat
from common.messages.records import State
from common.methods.checks import names_that_stay
from common.methods.method import Method
from common.methods.personal import Kept
from common.models.networks import copies_on_cpu
from server.measures import kept_for, passes_to_average, seed_of, subset_of
from server.run_directory.checkpoint import fit_state, load_kept, load_model
from server.run_directory.index import UNAVERAGED, read_checkpoint

log = logging.getLogger("fedshield")

_TRAINED_ALREADY = ("ditto", "fedrbn")


@dataclass(frozen=True, eq=False)
class PersonalModels:
    """The models of a run's clients after its last round.

    Attributes:
        round: the last one.
        shared: the global model; with ``train.average``, the average.
        last: the global model itself, from which the clients got their own.
        own: by client, the arrays of its own that take the place of those of ``last``.
    """

    round: int
    shared: State
    last: State
    own: Mapping[int, State]

    def state(self, client: int) -> State:
        """Return a client's model; one that has nothing of its own, such as a client never asked, has the global."""
        return {**self.last, **self.own[client]} if client in self.own else self.shared


def read_personal(run_dir: Path) -> PersonalModels | None:
    """Return the models of a run's clients; None where they have none, or these are at real clients.

    Raises:
        FedShieldError: a file is damaged or missing.
    """
    checkpoint = read_checkpoint(run_dir)
    if checkpoint is None:
        return None
    kept: dict[int, State] = {}
    for place, array in load_kept(run_dir, checkpoint, "clients").items():
        client, _, name = place.partition("/")
        kept.setdefault(int(client), {})[name] = array
    parts = {client: Kept.of(arrays) for client, arrays in kept.items()}
    own = {client: found for client, part in parts.items() if (found := {**part.own, **part.tuned})}
    if not own:
        return None
    shared = load_model(run_dir, checkpoint)
    return PersonalModels(int(checkpoint["round"]), shared, load_kept(run_dir, checkpoint, UNAVERAGED) or shared, own)


def require_personal(run_dir: Path) -> PersonalModels:
    """Return the models of a run's clients.

    Raises:
        FedShieldError: they have none, or these are at real clients.
    """
    if (found := read_personal(run_dir)) is None:
        raise FedShieldError(
            f"{run_dir}: has no models of its clients' own; a simulation with a method that makes them has, such as "
            "method.name=fedbn"
        )
    return found


def evaluate_personal(
    run_dir: Path,
    model: nn.Module,
    test: Dataset,
    config: RunConfig,
    counts: NDArray[np.int64] | None,
    whole: Evaluation,
) -> dict[str, Any] | None:
    """Return how good each client's own model is on test images of its classes, and the global one on the same images.

    Args:
        run_dir: absolute.
        model: the run's network, with the global weights; it has them again afterwards.
        test: the test set.
        config: of the run; with its final attacks, on those of its final examples that are of a client's classes.
        counts: training images of each class at each client, [clients, classes]; None where there are no clients.
        whole: the evaluation of the global model, with these attacks and on all final examples.

    Returns:
        What ``put_together`` returns, and ``attacks``; None where there are no such models.

    Raises:
        FedShieldError: a file of the run is damaged.
    """
    personal = read_personal(run_dir) if counts is not None else None
    if personal is None or counts is None:
        return None
    subset, attacks = subset_of(test, config.evaluate.final_examples), config.final_attacks(len(test.classes))
    threat, before = evaluation_threat(config), model.state_dict()
    before = dict(zip(before, copies_on_cpu(before.values()), strict=True))
    rows = []
    log.info("evaluating the own models of %d clients", len(counts))
    for client, held in _held(subset, counts):
        fit_state(model, personal.state(client), run_dir)
        own = subset.take(held)
        eot = passes_to_average(model, own.images, config)
        store = kept_for(run_dir / "evaluations", model, own, config, threat, eot)
        found = evaluate(model, own.images, own.labels, attacks, threat, seed_of(config), BATCH, store, eot)
        worst = found.worst and found.worst.value
        figures = {"client": client, "n": found.n, "natural": found.natural.value, "robust": worst}
        rows.append({**figures, "global": _on(whole, held, list(found.robust))})
    fit_state(model, before, run_dir)
    return {"attacks": list(attacks), **put_together(rows)} if rows else None


def _held(subset: Dataset, counts: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each client with the rows of the test images that are of its classes, if there are any."""
    for client, own in enumerate(counts):
        rows = np.flatnonzero(own[subset.labels] > 0)
        if len(rows):
            yield client, rows


def _on(whole: Evaluation, rows: NDArray[np.int64], attacks: list[str]) -> dict[str, float | None]:
    """Return natural accuracy and the worst case of some attacks, on some of the images of an evaluation."""
    masks = whole.masks()
    worst = np.logical_and.reduce([masks["natural"], *(masks[label] for label in attacks)])
    return {"natural": float(masks["natural"][rows].mean()), "robust": float(worst[rows].mean()) if attacks else None}


def check_personal(config: RunConfig, method: Method) -> None:
    """Refuse settings that make no sense with personal models.

    Args:
        config: of the run.
        method: of the federation.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    share = config.federation.adversarial_clients
    if config.method.name == "fedrbn" and not 0 < len(adversarial_clients(config)) < config.federation.clients:
        raise FedShieldError(
            f"federation.adversarial-clients = {share:g}: method.name = fedrbn passes robustness on from clients that "
            "train adversarially to clients that do not, so it needs both; set it to a share such as 0.5"
        )
    if not method.personal and not config.method.fine_tune_epochs:
        return
    by = f"method.fine-tune-epochs = {config.method.fine_tune_epochs}"
    if config.method.name in _TRAINED_ALREADY and config.method.fine_tune_epochs:
        raise FedShieldError(
            f"{by}: method.name = {config.method.name} has trained the clients' own models already; set it to 0"
        )
    by = f"method.name = {config.method.name}" if method.personal else by
    if config.data.validation_fraction > 0:
        raise FedShieldError(
            f"data.validation-fraction = {config.data.validation_fraction:g}: it chooses a round by the global model, "
            f"but the clients' own models ({by}) are those of the last round; set it to 0"
        )


def tell_what_stays(method: Method, model: nn.Module, tuned: bool, far: bool) -> None:
    """Tell what the global model lacks, and where the clients' own models are.

    Args:
        method: of the federation.
        model: its network.
        tuned: the clients fine-tune it after the last round.
        far: the clients are real ones, on a network.

    Raises:
        FedShieldError: the network has no such arrays.
    """
    if stays := names_that_stay(method, model):
        log.info(
            "method.name = %s: %d of %d arrays stay with the clients; the global model keeps their initial values, and "
            "its accuracy says little",
            *(method.name, len(stays), len(model.state_dict())),
        )
    if far and (method.personal or tuned):
        log.warning(
            "the clients' own models stay in the memory of their SuperNodes and are not measured: real clients have no "
            "test images"
        )
