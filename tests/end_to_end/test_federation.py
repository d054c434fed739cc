"""Whole federations in this process: what they compute, what they leave behind, and how they go on."""

import json
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from common.errors import FedShieldError
from common.factory import make_model, prepare_data
from common.messages.records import to_record, to_state
from server.app import run_federation
from server.run_directory.checkpoint import selected_model
from server.run_directory.index import read_checkpoint
from server.run_directory.reader import read_metrics
from simulations.cli.tables import partition_tables
from simulations.engine.executor import InProcess, Job, failure
from simulations.engine.local_grid import LocalGrid, Reply
from tests.helpers.runs import figures, run, same, weights
from tests.helpers.settings import tiny_config

REPLIES = ("clients", "refused", "shortened", "retried", "bytes")


def test_a_run_leaves_everything_a_reader_needs(tmp_path: Path) -> None:
    path = run(tmp_path, "run", train__milestones="1")
    assert path == tmp_path / "run"
    config = tiny_config()
    lines = read_metrics(path)
    assert [line["round"] for line in lines] == [1, 2]
    _, division = prepare_data(config)
    for line in lines:
        assert line["refused"] == {}
        # 200 images: 40 in the pool, 16 of them to each of ten clients in addition to their own.
        assert [reply["num-examples"] for reply in line["clients"].values()] == [len(s) + 16 for s in division.shards]
        evaluation = line["evaluation"]
        assert evaluation["n"] == 40
        assert set(evaluation["robust"]) == {"fgsm", "pgd-2"}
        low, high = evaluation["natural"]["interval"]
        assert 0 <= low <= evaluation["natural"]["value"] <= high <= 1
        assert evaluation["worst"]["value"] <= min(rate["value"] for rate in evaluation["robust"].values())
    stored = {
        name: json.loads((path / f"{name}.json").read_text())
        for name in ("config", "environment", "partition", "summary")
    }
    assert stored["config"]["train"]["milestones"] == "1"
    assert stored["environment"]["packages"]["flwr"] == version("flwr")
    assert sum(map(sum, stored["partition"]["clients"])) == 160
    assert sorted(stored["partition"]["shared"]) == [1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert stored["summary"]["rounds"] == stored["summary"]["evaluated-round"] == 2
    assert stored["summary"]["selected-by"] == "last round"
    assert "validation" not in stored["partition"]
    measured = {"round", "seconds", "loss", "update-norm", "evaluation", "signals", "diagnoses"}
    assert [set(line) for line in lines] == [{*measured, *REPLIES, "distrusted"}] * 2
    assert set(stored["summary"]["final"]["robust"]) == {"pgd-3"}


def test_without_sharing_it_is_flowers_fedavg_bit_for_bit(tmp_path: Path) -> None:
    changes = {"sharing__fraction": 0.0, "federation__rounds": 3}
    found = weights(run(tmp_path, "ours", **changes))

    config = tiny_config(**changes)
    grid = LocalGrid(config, InProcess())
    initial = to_record(make_model(config, 10).state_dict())
    # Flower's own strategy, over the same ClientApp; its random order of clients is not ours, so the grid sorts.
    result = FedAvg(fraction_evaluate=0.0).start(InOrder(grid), initial, num_rounds=3)
    assert isinstance(result.arrays, ArrayRecord)
    expected = to_state(result.arrays)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, expected[name]), name
        else:  # one batch a round; Flower's own counter becomes a float, and each client cuts its fraction off
            assert tensor.item() == 3


class InOrder:
    """A grid that hands the strategy its replies in the clients' order."""

    def __init__(self, grid: LocalGrid) -> None:
        self.grid = grid

    def get_node_ids(self) -> list[int]:
        return list(self.grid.get_node_ids())

    def send_and_receive(self, messages: Sequence[Message], *, timeout: float | None = None) -> list[Message]:
        replies = self.grid.send_and_receive(messages, timeout=timeout)
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


def test_same_seed_same_run_and_another_seed_another(tmp_path: Path) -> None:
    first, second, other = (run(tmp_path, name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert same(weights(first), weights(second))
    assert figures(first) == figures(second)
    assert not same(weights(first), weights(other))


@pytest.mark.parametrize("stop_in", [1, 3])
def test_an_interrupted_run_resumes_to_the_same_numbers(tmp_path: Path, stop_in: int) -> None:
    changes = {"federation__rounds": 4, "train__milestones": "2", "federation__fraction": 0.5, "evaluate__every": 2}
    whole = run(tmp_path, "whole", **changes)
    assert [line["evaluation"] is None for line in read_metrics(whole)] == [True, False, True, False]

    def interrupt(reply: Reply) -> None:
        if reply.server_round == stop_in and reply.answered == 3:
            raise KeyboardInterrupt

    config = tiny_config(results__dir=str(tmp_path), results__name="part", **changes)
    with pytest.raises(KeyboardInterrupt):
        run_federation(LocalGrid(config, InProcess(), interrupt), config)
    part = tmp_path / "part"
    assert len(read_metrics(part)) == stop_in - 1
    assert not (part / "summary.json").exists()
    assert run(tmp_path, "ignored", results__resume=str(part), **changes) == part
    assert same(weights(part), weights(whole))
    assert figures(part) == figures(whole)
    finals = [json.loads((path / "summary.json").read_text())["final"] for path in (part, whole)]
    assert finals[0] == finals[1]


def test_a_finished_run_made_longer_equals_a_long_one(tmp_path: Path) -> None:
    short = run(tmp_path, "short", federation__rounds=1)
    run(tmp_path, "", results__resume=str(short), federation__rounds=2)
    assert same(weights(short), weights(run(tmp_path, "long", federation__rounds=2)))


def test_the_server_chooses_the_best_round_on_images_that_no_client_has(tmp_path: Path) -> None:
    changes = {"federation__rounds": 4, "data__validation_fraction": 0.2}
    whole = run(tmp_path, "whole", **changes)
    _, division = prepare_data(tiny_config(**changes))
    described = json.loads((whole / "partition.json").read_text())
    assert described["validation"] == [4] * 10
    assert sum(map(sum, described["clients"])) + sum(described["pool"]) == 160
    assert partition_tables(described, 120)[0].row_count == 10 + len(("pool", "shared", "validation"))
    lines = read_metrics(whole)
    for line in lines:
        assert [reply["num-examples"] for reply in line["clients"].values()] == [
            len(shard) + len(division.shared) for shard in division.shards
        ]
        assert line["validation"]["n"] == 40
        assert set(line["validation"]["robust"]) == {"fgsm", "pgd-2"}
    # Worst case, then natural accuracy, then the earlier round: max() keeps the first of equals.
    best = max(lines, key=lambda line: [line["validation"][name]["value"] for name in ("worst", "natural")])
    number, state = selected_model(whole)
    assert number == best["round"]
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["evaluated-round"], summary["selected-by"]) == (number, "validation")
    assert same(state, weights(whole)) == (number == 4)

    def interrupt(reply: Reply) -> None:
        if reply.server_round == 3:
            raise KeyboardInterrupt

    config = tiny_config(results__dir=str(tmp_path), results__name="part", **changes)
    with pytest.raises(KeyboardInterrupt):
        run_federation(LocalGrid(config, InProcess(), interrupt), config)
    part = run(tmp_path, "", results__resume=str(tmp_path / "part"), **changes)
    assert read_checkpoint(part) == read_checkpoint(whole)
    assert [line["validation"] for line in read_metrics(part)] == [line["validation"] for line in lines]


def test_a_run_interrupted_in_its_final_evaluation_gets_one_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(recorder: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("server.recorder.Recorder.finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "part")
    run(tmp_path, "", results__resume=str(tmp_path / "part"))
    whole = run(tmp_path, "whole")
    finals = [json.loads((path / "summary.json").read_text())["final"] for path in (tmp_path / "part", whole)]
    assert finals[0] == finals[1]


class Faulty(InProcess):
    """An executor one of whose clients fails in some rounds."""

    def __init__(self, client: int, fails: Callable[[int], bool]) -> None:
        self.client, self.fails = client, fails
        self.shared_sent: list[tuple[int, int]] = []

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[tuple[Message, RecordDict]]:
        for job in jobs:
            message, context = job.message, job.context
            client = int(context.node_config["partition-id"])
            order = message.content.config_records.get("config")
            server_round = int(str(order["server-round"])) if order else 0
            if "shared" in message.content:
                self.shared_sent.append((server_round, client))
            if client == self.client and order and self.fails(server_round):
                yield failure(message, "out of memory"), context.state
            else:
                yield from super().run([job], timeout)


def test_a_client_that_fails_is_left_out_and_gets_the_shared_data_again(tmp_path: Path) -> None:
    executor = Faulty(3, lambda server_round: server_round == 1)
    path = run(tmp_path, "run", executor, federation__min_fraction=0.9)
    first, second = read_metrics(path)
    assert first["refused"] == {"3": "out of memory"}
    assert len(first["clients"]) == 9
    assert second["refused"] == {}
    assert executor.shared_sent == [(1, client) for client in range(10)] + [(2, 3)]


def test_too_few_replies_end_the_run_and_lose_no_round(tmp_path: Path) -> None:
    with pytest.raises(
        FedShieldError, match=r"^round 2: 9 valid replies of 10, .* asks for 10: client 3: out of memory$"
    ):
        run(tmp_path, "run", Faulty(3, lambda server_round: server_round == 2))
    assert [line["round"] for line in read_metrics(tmp_path / "run")] == [1]
    run(tmp_path, "", results__resume=str(tmp_path / "run"))
    assert same(weights(tmp_path / "run"), weights(run(tmp_path, "whole")))


def test_a_bug_in_a_client_is_an_error_reply_not_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.training.trainer.Trainer.fit", lambda *arguments, **named: 1 / 0)
    with pytest.raises(
        FedShieldError, match=r"0 valid replies of 10, .* client 0, 1, .*, 9: ZeroDivisionError: division by zero$"
    ):
        run(tmp_path, "run")
