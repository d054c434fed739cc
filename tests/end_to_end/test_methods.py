"""Methods that keep something between rounds: the same bits on every engine, and after an interruption."""

from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from client.kept import read_kept, write_kept
from common.errors import FedShieldError
from common.messages.protocol import ARRAYS, BESIDE, CONFIG, LOSS, METRICS, NUM_EXAMPLES, SECONDS
from common.messages.records import to_record, to_state
from server.aggregation.reply_checks import RefusedError, ReplyChecks
from server.run_directory.checkpoint import load_kept
from server.run_directory.index import read_checkpoint
from simulations.engine.executor import Executor
from simulations.engine.process_executor import Processes
from simulations.engine.ray_executor import RayActors
from tests.helpers.runs import figures, run, run_in_parts, run_with, same, weights

# Clients keep variates, the server keeps theirs and Adam's moments; half of the clients train in a round.
KEEPS = {
    "method__name": "scaffold",
    "strategy__name": "fedadam",
    "federation__rounds": 4,
    "federation__fraction": 0.5,
    "partition__scheme": "dirichlet",
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("reference"), "inprocess", **KEEPS)


@pytest.mark.parametrize("engine", [Processes, RayActors])
def test_every_engine_gives_the_same_bits(tmp_path: Path, reference: Path, engine: type[Executor]) -> None:
    path = run_with(engine, tmp_path, "other", **KEEPS)
    assert same(weights(path), weights(reference))
    assert figures(path) == figures(reference)
    for whose in ("server", "clients"):
        kept, other = (load_kept(each, read_checkpoint(each) or {}, whose) for each in (path, reference))
        assert kept
        assert same(kept, other)


def test_an_interrupted_run_has_what_was_kept(tmp_path: Path, reference: Path) -> None:
    # three clients have moved on already
    part = run_in_parts(tmp_path, lambda reply: reply.server_round == 3 and reply.answered == 3, **KEEPS)
    assert same(weights(part), weights(reference))
    assert figures(part) == figures(reference)


def test_a_method_that_averages_in_its_own_way_takes_no_robust_rule(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match=r"strategy.name = median: method.name = sfat averages the replies"):
        run(tmp_path, "refused", strategy__name="median", method__name="sfat")
    path = run(tmp_path, "taken", strategy__name="median", method__name="fedprox", federation__rounds=1)
    assert (path / "summary.json").exists()


def test_a_client_forgets_what_it_kept_under_another_method() -> None:
    state = RecordDict()
    assert read_kept(state, "scaffold", 0) == {}
    assert read_kept(state, "scaffold", 3) is None  # lost
    write_kept(state, "scaffold", {"w": torch.tensor([1.0, 2.0])}, server_round=1)
    assert read_kept(state, "scaffold", 1)["w"].tolist() == [1.0, 2.0]  # type: ignore[index]
    assert read_kept(state, "feddyn", 1) is None


def test_what_a_client_kept_in_a_turn_that_was_refused_does_not_count() -> None:
    state = RecordDict()
    write_kept(state, "scaffold", {"w": torch.tensor(1.0)}, server_round=2)
    write_kept(state, "scaffold", {"w": torch.tensor(9.0)}, server_round=3, counted=2)  # this one is refused
    assert read_kept(state, "scaffold", 2)["w"].item() == 1.0  # type: ignore[index]
    write_kept(state, "scaffold", {"w": torch.tensor(4.0)}, server_round=5, counted=2)
    assert read_kept(state, "scaffold", 5)["w"].item() == 4.0  # type: ignore[index]
    assert read_kept(state, "scaffold", 2)["w"].item() == 1.0  # type: ignore[index]
    assert read_kept(state, "scaffold", 3) is None
    copy = read_kept(state, "scaffold", 5)
    copy["w"] += 1  # type: ignore[index]
    assert read_kept(state, "scaffold", 5)["w"].item() == 4.0  # type: ignore[index]


def reply_with(beside: ArrayRecord | None) -> Message:
    content = RecordDict({ARRAYS: to_record({"w": torch.ones(2), "n": torch.ones(())})})
    content[METRICS] = MetricRecord({NUM_EXAMPLES: 5, LOSS: 1.0, SECONDS: 0.1})
    if beside is not None:
        content[BESIDE] = beside
    asked = Message(RecordDict({CONFIG: ConfigRecord()}), 1, MessageType.TRAIN)
    return Message(content, reply_to=asked)


def test_what_a_client_sends_beside_its_model_is_checked() -> None:
    model = to_record({"w": torch.zeros(2), "n": torch.zeros(())})
    checks = ReplyChecks(model, frozenset({"w"}), beside=True)
    good = checks.check(reply_with(to_record({"w": torch.tensor([3.0, 4.0])})), 5)
    assert good.beside_norm == 5.0
    assert to_state(good.beside)["w"].tolist() == [3.0, 4.0]
    for sent, told in (
        (None, "1 array records and 1 metric records, expected 2 and 1"),
        (to_record({"v": torch.ones(2)}), "not those of its weights, first at v"),
        (to_record({"w": torch.ones(3)}), r"array w beside the model is float32 \(3,\), expected float32 \(2,\)"),
        (to_record({"w": torch.tensor([1.0, torch.inf])}), "array w beside the model has values that are not finite"),
    ):
        with pytest.raises(RefusedError, match=told):
            checks.check(reply_with(sent), 5)
    with pytest.raises(RefusedError, match="2 array records"):
        ReplyChecks(model, frozenset({"w"})).check(reply_with(to_record({"w": torch.ones(2)})), 5)
