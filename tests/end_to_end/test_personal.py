"""Models of the clients' own: what stays with a client, on every engine, and after an interruption."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import MessageType, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from common.config.schema import RunConfig
from common.data.draws import balanced_subset
from common.errors import FedShieldError
from common.evaluation.evaluate import evaluate
from common.evaluation.personal import tell_personal
from common.exported import load_exported
from common.factory import (
    adversarial_clients,
    client_data,
    evaluation_threat,
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
from common.methods.personal import Kept
from common.models.networks import load_state
from common.seeding import seed_for
from server.app import run_federation
from server.evaluation import evaluate_run
from server.personal import tell_what_stays
from server.run_directory.checkpoint import load_kept
from server.run_directory.index import read_checkpoint
from server.run_directory.reader import read_metrics, read_summary
from simulations.cli.options import parse_clients
from simulations.client_transfer import between_clients
from simulations.engine.executor import Executor, InProcess, Job, Outcome, failure
from simulations.engine.local_grid import LocalGrid, Reply
from simulations.engine.process_executor import Processes
from simulations.engine.ray_executor import RayActors
from simulations.export.formats import export_run
from simulations.reports.html.write import write_report
from tests.helpers.program import invoke
from tests.helpers.runs import figures, run, run_in_parts, run_with, same, weights
from tests.helpers.settings import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

PERSONAL = {"method__name": "fedbn", "federation__rounds": 3, "federation__fraction": 0.5}


def kept(run_dir: Path) -> State:
    return load_kept(run_dir, read_checkpoint(run_dir) or {}, "clients")


def own(run_dir: Path, client: int) -> State:
    """Return the arrays of a client's own model."""
    prefix = f"{client}/"
    arrays = Kept.of({n.removeprefix(prefix): v for n, v in kept(run_dir).items() if n.startswith(prefix)})
    return {**arrays.own, **arrays.tuned}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("reference"), "inprocess", **PERSONAL)


@pytest.mark.parametrize("engine", [Processes, pytest.param(RayActors, marks=pytest.mark.slow)])
def test_every_engine_gives_the_same_bits(tmp_path: Path, reference: Path, engine: type[Executor]) -> None:
    path = run_with(engine, tmp_path, "other", **PERSONAL)
    assert same(weights(path), weights(reference))
    assert same(kept(path), kept(reference))
    assert figures(path) == figures(reference)


def test_an_interrupted_run_has_the_clients_own_arrays(tmp_path: Path, reference: Path) -> None:
    # three clients have moved on already
    part = run_in_parts(tmp_path, lambda reply: reply.server_round == 2 and reply.answered == 3, **PERSONAL)
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


OWN = """
from dataclasses import replace
from common.methods.method import Method
class Bias(Method):
    keeps = personal = True
    def stays(self, model):
        return [name for name in model.state_dict() if name.endswith("11.bias")]
    def train(self, turn, fit):
        fit(replace(turn.plan, frozen=frozenset(turn.weights) - {"11.bias"}), part="bias")
        return fit(turn.plan, self.pull(turn))
class Forgetful(Bias):
    def train(self, turn, fit):
        fit(turn.plan)
"""


def test_a_users_method_keeps_arrays_at_the_client_and_trains_in_parts(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    path = run(tmp_path, "run", method__name=f"{tmp_path / 'own.py'}:Bias", federation__rounds=1)
    assert own(path, 3).keys() == {"11.bias"}
    with pytest.raises(FedShieldError, match="train returns NoneType; return what fit returns"):
        run(tmp_path, "other", method__name=f"{tmp_path / 'own.py'}:Forgetful", federation__rounds=1)


@pytest.mark.parametrize("name", ["fedbn", "fedper", "fedrep"])
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


def test_clients_that_cannot_afford_adversarial_training_train_naturally(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"federation__adversarial_clients": 0.3, "federation__rounds": 1, "attack__steps": 2}
    changes["train__awp_gamma"] = 0.05  # whose pass they do not pay either
    watched, config = Watched(), tiny_config(**changes)
    with caplog.at_level("INFO", "fedshield"):
        run(tmp_path, "run", watched, **changes)
    able = sorted(adversarial_clients(config))
    assert f"3 of 10 clients train adversarially ({', '.join(map(str, able))}), the others naturally" in caplog.text
    natural = tiny_config(**{**changes, "train__awp_gamma": 0.0}, loss__name="pgd-at", attack__name="none")
    for client, (start, trained) in enumerate(watched.turns):
        as_it = config if client in able else natural
        assert same(trained, trained_alone(as_it, start, client, server_round=1))


def test_fedrbn_gives_robust_statistics_to_the_others(tmp_path: Path) -> None:
    path = run(tmp_path, "run", method__name="fedrbn", federation__adversarial_clients=0.3, federation__rounds=1)
    able = adversarial_clients(tiny_config(federation__adversarial_clients=0.3))
    for name in (name for name in weights(path) if name.endswith(("running_mean", "running_var"))):
        given = torch.stack([own(path, client)[name] for client in sorted(able)]).mean(0)
        torch.testing.assert_close(weights(path)[name], given)
        assert not any(name in own(path, client) for client in range(10) if client not in able)
    assert {int(client) for client in read_metrics(path)[0]["clients"]} == set(range(10))  # the guard refused nobody


def test_ditto_keeps_whole_models_beside_fedavg(tmp_path: Path) -> None:
    fedavg, ditto = (run(tmp_path, name, method__name=name) for name in ("fedavg", "ditto"))
    assert same(weights(ditto), weights(fedavg))
    assert figures(ditto) == figures(fedavg)
    assert own(ditto, 0).keys() == weights(ditto).keys()
    assert len(read_summary(ditto)["final"]["personal"]["clients"]) == 10
    median = run(tmp_path, "median", method__name="ditto", strategy__name="median", federation__rounds=1)
    assert len(read_summary(median)["final"]["personal"]["clients"]) == 10


def trained_alone(config: RunConfig, start: State, client: int, server_round: int) -> dict[str, Tensor]:
    """Train a client without a federation, by the trainer alone."""
    data, shared = client_data(config, client), server_data(config).shared
    images, labels = (np.concatenate(both) for both in ((data.images, shared.images), (data.labels, shared.labels)))
    model = make_model(config, 10)
    load_state(model, start)
    method = make_method(config, model, 10)
    plan = training_plan(config, config.train.local_epochs, server_round, config.federation.rounds)
    seed = seed_for(config.seed, "train", server_round, client)
    make_trainer(model, config, method).fit(images, labels, method.loss_for(labels), plan, seed)
    return model.state_dict()


def test_each_clients_own_model_is_measured_on_its_own_classes(tmp_path: Path) -> None:
    changes = {"partition__scheme": "dirichlet", "evaluate__final_attacks": "fgsm,pgd-3"}
    path = run(tmp_path, "run", method__name="fedper", **changes)
    config = tiny_config(**changes)
    final, test, model = read_summary(path)["final"], server_data(config).test, make_model(config, 10)
    subset = test.take(balanced_subset(test.labels, 40, 0, "evaluation"))

    def masks(state: State, rows: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
        load_state(model, state)
        part, threat = subset.take(np.flatnonzero(rows)), evaluation_threat(config)
        seed = seed_for(config.seed, "evaluate")
        return evaluate(model, part.images, part.labels, ["fgsm", "pgd-3"], threat, seed).masks()

    # The global model is attacked with all images together, where the random starts are others.
    whole, sizes = masks(weights(path), np.ones(40, bool)), []
    for told in final["personal"]["clients"]:
        rows = np.isin(subset.labels, client_data(config, told["client"]).labels)
        found = masks({**weights(path), **own(path, told["client"])}, rows)
        assert (told["natural"], told["robust"]) == (found["natural"].mean(), found["worst"].mean())
        assert told["global"] == {"natural": whole["natural"][rows].mean(), "robust": whole["worst"][rows].mean()}
        sizes.append(int(rows.sum()))
        assert told["n"] == sizes[-1]
    assert len({*sizes}) > 1
    values = [told["natural"] for told in final["personal"]["clients"]]
    over = final["personal"]["natural"]
    assert (over["mean"], over["worst"], over["spread"]) == pytest.approx(
        (np.mean(values), min(values), np.std(values))
    )
    assert len({*values}) > 1


def test_personal_figures_are_shown(tmp_path: Path, reference: Path) -> None:
    lines = tell_personal(read_summary(reference)["final"]["personal"])
    assert lines[0].startswith("own models of 10 clients, each on the test images of its own classes (n = 8): natural ")
    assert lines[1].startswith("the global model on the same images: natural ")
    shown = invoke("evaluate", str(reference), "--personal")
    assert shown.returncode == 0
    assert all(line in shown.stdout for line in lines)
    assert "own models of 10 clients" in write_report(reference, tmp_path / "report.html").read_text()


def test_an_export_says_whose_model_it_is(tmp_path: Path, reference: Path) -> None:
    with pytest.raises(FedShieldError, match=r"say whose to take: --client 0 to 9, or --client global"):
        export_run(reference, "safetensors")
    with pytest.raises(FedShieldError, match=r"--client 10: give a number from 0 to 9, or global"):
        export_run(reference, "safetensors", whose="10")
    client = next(client for client in range(10) if own(reference, client))
    file, card = export_run(reference, "safetensors", whose=str(client))
    assert file.parent == reference / "export" / f"client-{client}"
    exported = load_exported(file).state_dict()
    assert same(dict(exported), {**weights(reference), **own(reference, client)})
    assert f"the own model of client {client} after round 3" in card.read_text()
    assert f"Accuracy on n = 8 test images of the classes of client {client}" in card.read_text()
    whole = load_exported(export_run(reference, "safetensors", whose="global")[0]).state_dict()
    assert same(dict(whole), weights(reference))
    other = next(other for other in range(10) if own(reference, other) and other != client)
    with pytest.raises(FedShieldError, match="belongs to another model"):
        export_run(reference, "torch", file.parent, whose=str(other))
    missing = [client for client in range(10) if not own(reference, client)]
    for never in missing:
        with pytest.raises(FedShieldError, match="has nothing of its own, as it was never asked"):
            export_run(reference, "safetensors", whose=str(never))


def test_examples_of_one_client_are_tried_on_another(tmp_path: Path) -> None:
    path = run(tmp_path, "run", method__name="ditto", partition__scheme="dirichlet", train__learning_rate=0.1)
    sheet, file = between_clients(path, "fgsm", {"evaluate.final-examples": 100}, [2, 7, 9])
    with file.open() as lines:
        rows = [{key: float(value) for key, value in line.items()} for line in csv.DictReader(lines)]
    assert file.name == "clients-fgsm.csv"
    assert [(row["made_on"], row["tried_on"]) for row in rows] == [(i, j) for j in (2, 7, 9) for i in (2, 7, 9)]
    config = tiny_config(partition__scheme="dirichlet")
    subset = server_data(config).test
    subset = subset.take(balanced_subset(subset.labels, 100, 0, "evaluation"))
    made, tried = make_model(config, 10).eval(), make_model(config, 10).eval()
    for row in rows:  # FGSM by hand
        load_state(made, own(path, int(row["made_on"])))
        load_state(tried, own(path, int(row["tried_on"])))
        mine = subset.take(np.flatnonzero(np.isin(subset.labels, client_data(config, int(row["tried_on"])).labels)))
        images, labels = torch.from_numpy(mine.images).float() / 255, torch.from_numpy(mine.labels)
        right = tried(images).argmax(1) == labels
        moving = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(made(moving), labels), moving)
        left = tried((images + 8 / 255 * gradient.sign()).clamp(0, 1)).argmax(1) == labels
        assert row["n"] == len(labels)
        assert row["natural"] == pytest.approx(right.double().mean().item())
        assert row["robust"] == pytest.approx((right & left).double().mean().item())
    assert [line[0] for line in sheet.rows] == ["no attack", "2", "7", "9"]
    assert sheet.rows[2][2] == f"{100 * next(r['robust'] for r in rows if r['made_on'] == r['tried_on'] == 7):.1f}"
    shown = invoke("transfer", str(path), "--clients", "2,7", "--attack", "fgsm", "--examples", "100")
    assert shown.returncode == 0
    assert "Accuracy in % of the clients' own models under fgsm" in shown.stdout
    for asked, told in (([2], "one client given"), ([2, 10], "the clients of this run are 0 to 9")):
        with pytest.raises(FedShieldError, match=told):
            between_clients(path, "fgsm", {}, asked)
    with pytest.raises(FedShieldError, match="--attack deepfool: has no budget"):
        between_clients(path, "deepfool", {}, [])
    with pytest.raises(FedShieldError, match="--clients two: give all, or numbers"):
        parse_clients("two")


def test_where_there_are_none_one_line_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = run(tmp_path, "plain", federation__rounds=1)
    assert "personal" not in read_summary(plain)["final"]
    with pytest.raises(FedShieldError, match="has no models of its clients' own"):
        evaluate_run(plain, {}, personal=True)
    config = tiny_config(method__name="fedbn")
    with caplog.at_level("INFO", "fedshield"):
        tell_what_stays(make_federated_method(config), make_model(config, 10), tuned=False, far=True)
    assert "15 of 20 arrays stay with the clients" in caplog.text
    assert "are not measured: real clients have no test images" in caplog.text


TUNED = {**PERSONAL, "method__fine_tune_epochs": 2}


@pytest.mark.parametrize("name", ["fedavg", "fedbn"])
def test_each_client_fine_tunes_the_last_model(tmp_path: Path, name: str) -> None:
    changes = {**TUNED, "method__name": name}
    path = run(tmp_path, "tuned", **changes)
    before = run(tmp_path, "before", **{**changes, "method__fine_tune_epochs": 0})
    assert same(weights(path), weights(before))  # the global model is not touched
    assert figures(path) == figures(before)
    config, model = tiny_config(**changes), make_model(tiny_config(), 10)
    for client in (0, 9):
        data = client_data(config, client)
        load_state(model, {**weights(before), **own(before, client)})
        method, plan, seed = (
            make_method(config, model, 10),
            training_plan(config, 2, 3, 3),
            seed_for(1, "fine-tune", client),
        )
        loss = method.loss_for(data.labels)
        make_trainer(model, config, method).fit(data.images, data.labels, loss, plan, seed)
        assert same(own(path, client), dict(model.state_dict()))
    personal = read_summary(path)["final"]["personal"]
    assert [told["client"] for told in personal["clients"]] == list(range(10))


def test_fine_tuning_has_the_same_bits_on_processes_and_after_an_interruption(tmp_path: Path) -> None:
    whole, far = run(tmp_path, "whole", **TUNED), tiny_config(results__dir=str(tmp_path), results__name="far", **TUNED)
    executor = Processes(tiny_config(), 2)
    try:
        path = run_federation(LocalGrid(far, executor), far)
    finally:
        executor.close()
    assert same(kept(path), kept(whole))

    def interrupt(reply: Reply) -> None:
        if reply.message.metadata.message_type == MessageType.EVALUATE and reply.answered == 3:
            raise KeyboardInterrupt

    part = tiny_config(results__dir=str(tmp_path), results__name="part", **TUNED)
    with pytest.raises(KeyboardInterrupt):
        run_federation(LocalGrid(part, InProcess(), interrupt), part)
    resumed = run(tmp_path, "ignored", results__resume=str(tmp_path / "part"), **TUNED)
    assert same(kept(resumed), kept(whole))


def test_a_longer_run_does_not_go_on_from_fine_tuned_models(tmp_path: Path) -> None:
    longer = {**TUNED, "federation__rounds": 4}
    whole, short = run(tmp_path, "whole", **longer), run(tmp_path, "short", **TUNED)
    assert same(weights(run(tmp_path, "ignored", results__resume=str(short), **longer)), weights(whole))
    assert same(kept(short), kept(whole))


class Failing(InProcess):
    """One client fails to fine-tune."""

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        for job, outcome in zip(jobs, super().run(jobs, timeout), strict=True):
            if (
                job.message.metadata.message_type == MessageType.EVALUATE
                and job.context.node_config["partition-id"] == 4
            ):
                yield failure(job.message, "no memory"), RecordDict()
            else:
                yield outcome


def test_a_client_that_could_not_fine_tune_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = run(tmp_path, "run", Failing(), method__fine_tune_epochs=1, federation__rounds=1)
    assert "client 4 has not fine-tuned the model: no memory" in caplog.text
    assert own(path, 4) == {}
    assert own(path, 5).keys() == weights(path).keys()


def test_settings_that_make_no_sense_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match=r"data.validation-fraction = 0.1: it chooses a round by the global model"):
        run(tmp_path, "refused", method__name="fedper", data__validation_fraction=0.1)
    with pytest.raises(
        FedShieldError, match=r"the clients' own models \(method.fine-tune-epochs = 1\) are those of the"
    ):
        run(tmp_path, "refused", method__fine_tune_epochs=1, data__validation_fraction=0.1)
    with pytest.raises(FedShieldError, match=r"method.name = ditto has trained the clients' own models already"):
        run(tmp_path, "refused", method__name="ditto", method__fine_tune_epochs=1)
    with pytest.raises(
        FedShieldError, match=r"federation.adversarial-clients = 1: method.name = fedrbn passes .* both"
    ):
        run(tmp_path, "refused", method__name="fedrbn")
    with pytest.raises(FedShieldError, match=r"^method.name = fed\w+: .*no batch normalization that"):
        run(tmp_path, "refused", method__name="fedbn", model__name="cnn2")
