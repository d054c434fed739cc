"""Models of the clients' own: what stays with a client, on every engine, and after an interruption."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import MessageType
from torch import Tensor

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.factory import (
    client_data,
    make_federated_method,
    make_method,
    make_model,
    make_trainer,
    server_data,
    training_plan,
)
from common.messages.protocol import ARRAYS
from common.messages.records import State, to_state
from common.methods.checks import names_that_stay
from common.methods.personal import without_own
from common.models.networks import load_state
from common.seeding import seed_for
from server.app import run_federation
from server.run_directory.checkpoint import load_kept, read_checkpoint
from simulations.engine.executor import Executor, InProcess, Job, Outcome
from simulations.engine.local_grid import LocalGrid, Reply
from simulations.engine.process_executor import Processes
from simulations.engine.ray_executor import RayActors
from tests.helpers.runs import figures, run, same, weights
from tests.helpers.settings import tiny_config

PERSONAL = {"method__name": "fedbn", "federation__rounds": 3, "federation__fraction": 0.5}


def kept(run_dir: Path) -> State:
    return load_kept(run_dir, read_checkpoint(run_dir) or {}, "clients")


def own(run_dir: Path, client: int) -> State:
    """Return the arrays of a client's own model."""
    prefix = f"{client}/"
    return without_own({n.removeprefix(prefix): v for n, v in kept(run_dir).items() if n.startswith(prefix)})[1]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("reference"), "inprocess", **PERSONAL)


@pytest.mark.parametrize("engine", [Processes, RayActors])
def test_every_engine_gives_the_same_bits(tmp_path: Path, reference: Path, engine: type[Executor]) -> None:
    config = tiny_config(results__dir=str(tmp_path), results__name="other", **PERSONAL)
    executor = engine(tiny_config(), 2)  # type: ignore[call-arg]
    try:
        path = run_federation(LocalGrid(config, executor), config)
    finally:
        executor.close()
    assert same(weights(path), weights(reference))
    assert same(kept(path), kept(reference))
    assert figures(path) == figures(reference)


def test_an_interrupted_run_has_the_clients_own_arrays(tmp_path: Path, reference: Path) -> None:
    def interrupt(reply: Reply) -> None:
        if reply.server_round == 2 and reply.answered == 3:  # three clients have moved on already
            raise KeyboardInterrupt

    config = tiny_config(results__dir=str(tmp_path), results__name="part", **PERSONAL)
    with pytest.raises(KeyboardInterrupt):
        run_federation(LocalGrid(config, InProcess(), interrupt), config)
    part = run(tmp_path, "ignored", results__resume=str(tmp_path / "part"), **PERSONAL)
    assert same(weights(part), weights(reference))
    assert same(kept(part), kept(reference))


class Watched(InProcess):
    """Keeps what goes out to the clients and what comes back."""

    def __init__(self) -> None:
        self.turns: list[tuple[State, State]] = []

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        for job, outcome in zip(jobs, super().run(jobs, timeout), strict=True):
            if job.message.metadata.message_type == MessageType.TRAIN:
                both = (to_state(each.content.array_records[ARRAYS]) for each in (job.message, outcome[0]))
                self.turns.append(tuple(both))  # type: ignore[arg-type]
            yield outcome


@pytest.mark.parametrize("name", ["fedbn", "fedper"])
def test_what_stays_is_never_sent_and_what_goes_is_trained(tmp_path: Path, name: str) -> None:
    watched = Watched()
    path = run(tmp_path, name, watched, method__name=name)
    config = tiny_config(method__name=name)
    model = make_model(config, 10)
    stays = names_that_stay(make_federated_method(config), model)
    assert len(watched.turns) == 20
    for received, replied in watched.turns:
        assert received.keys() == replied.keys() == model.state_dict().keys()
        assert all(torch.equal(received[each], replied[each]) for each in stays)
        assert not any(torch.equal(received[each], replied[each]) for each in replied.keys() - stays)
    for each in stays:  # the mean of equal values is that value, up to rounding
        torch.testing.assert_close(weights(path)[each], model.state_dict()[each])
    assert all(own(path, client).keys() == stays for client in range(10))
    assert not same(own(path, 0), own(path, 1))


@pytest.mark.parametrize("name", ["fedbn", "fedper"])
def test_a_client_goes_on_from_the_global_model_with_its_own_arrays(tmp_path: Path, name: str) -> None:
    changes = {"method__name": name, "partition__scheme": "dirichlet"}
    first = run(tmp_path, "one", federation__rounds=1, **changes)
    second = run(tmp_path, "two", federation__rounds=2, **changes)
    config = tiny_config(**changes)
    trained = trained_alone(config, {**weights(first), **own(first, 3)}, client=3, server_round=2)
    assert same(own(second, 3), {each: trained[each] for each in own(second, 3)})


def trained_alone(config: RunConfig, start: State, client: int, server_round: int) -> dict[str, Tensor]:
    """Train a client without a federation, by the trainer alone."""
    data, shared = client_data(config, client), server_data(config).shared
    images, labels = (np.concatenate(both) for both in ((data.images, shared.images), (data.labels, shared.labels)))
    model = make_model(config, 10)
    load_state(model, start)
    loss = make_method(config, model, 10).loss_for(labels)
    plan = training_plan(config, config.train.local_epochs, server_round, config.federation.rounds)
    seed = seed_for(config.seed, "train", server_round, client)
    make_trainer(model, config, False).fit(images, labels, loss, plan, seed)
    return model.state_dict()


def test_settings_that_make_no_sense_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match=r"data.validation-fraction = 0.1: it chooses a round by the global model"):
        run(tmp_path, "refused", method__name="fedper", data__validation_fraction=0.1)
    with pytest.raises(FedShieldError, match=r"no batch normalization that could stay"):
        run(tmp_path, "refused", method__name="fedbn", model__name="cnn2")
