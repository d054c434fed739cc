"""Rules that see all replies of a round: q-FedAvg by hand, and a user's own."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from common.errors import FedShieldError
from common.methods.method import Reply
from server.aggregation.whole_round import Received, Rule, find_rule
from server.run_directory.checkpoint import load_kept
from server.run_directory.index import read_checkpoint
from simulations.engine.process_executor import Processes
from tests.helpers.pages import own_file
from tests.helpers.runs import figures, run, run_in_parts, run_with, same, weights
from tests.helpers.settings import tiny_config

pytestmark = pytest.mark.usefixtures("speaking")


def received(models: Sequence[float], losses: Sequence[float], images: Sequence[int]) -> Received:
    def state(value: float, seen: int) -> dict[str, torch.Tensor]:
        return {"w": torch.tensor([value]), "running_mean": torch.tensor([value]), "counter": torch.tensor(seen)}

    replies = [Reply(client, *told) for client, told in enumerate(zip(images, losses, strict=True))]
    return Received(1, replies, [state(value, 4) for value in models], state(0.0, 2), {"w"})


def rule(name: str, **changes: object) -> Rule:
    found = find_rule(tiny_config(strategy__name=name, **changes).strategy, learning_rate=0.5)
    assert found is not None
    return found


def test_q_fedavg_by_hand() -> None:
    # L = 2, q = 1. F = 4, w_k = 1: Δ = −2, h = 1·4⁰·4 + 2·4 = 12; F = 1, w_k = −2: Δ = 4, h = 16 + 2 = 18.
    # 0 − (4·(−2) + 1·4) / 30
    replies = received([1.0, -2.0], losses=[4.0, 1.0], images=[30, 10])
    found = rule("qfedavg", strategy__q=1.0)(replies)
    assert found["w"].item() == pytest.approx(4 / 30)
    assert found["w"].dtype == torch.float32
    assert found["running_mean"].item() == pytest.approx((30 - 20) / 40)
    assert (found["counter"].item(), found["counter"].dtype) == (4, torch.int64)
    assert [model["w"].item() for model in replies.models] == [1.0, -2.0]  # Flower computes in place
    # q = 0: every client counts alike
    assert rule("qfedavg", strategy__q=0.0)(replies)["w"].item() == pytest.approx(-0.5)


def test_a_loss_below_zero_counts_as_zero() -> None:
    found = rule("qfedavg", strategy__q=1.0)(received([1.0, 1.0], losses=[4.0, -9.0], images=[1, 1]))
    assert found["w"].item() == pytest.approx(8 / 16)  # h = 12 and 1·4; the loss of 0 adds nothing above


def test_a_federation_by_q_fedavg(tmp_path: Path) -> None:
    fair = run(tmp_path, "fair", strategy__name="qfedavg", strategy__q=1.0)
    assert not same(weights(fair), weights(run(tmp_path, "plain")))
    with pytest.raises(
        FedShieldError, match=r"strategy.name = qfedavg: method.name = sfat averages the replies in its"
    ):
        run(tmp_path, "refused", strategy__name="qfedavg", method__name="sfat")


OWN = """
import torch
def momentum(received):
    mean, kept = received.mean(), received.kept
    for name in received.weights:
        step = mean[name] - received.before[name]
        kept[name] = step + 0.5 * kept.get(name, torch.zeros_like(step))
        mean[name] = received.before[name] + kept[name]
    return mean
def spoiling(received):
    received.before["w"] += 1
    return received.models[0]
def short(received):
    return {"w": received.before["w"]}
def wild(received):
    return {**received.before, "w": received.before["w"] / 0}
def doubled(received):
    return {**received.before, "w": received.before["w"].double()}
def nothing(received):
    pass
def keeping(received):
    received.kept["count"] = 3
    return received.mean()
def failing(received):
    return received.model
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("short", "the rule gives other arrays than it must, first at counter"),
        ("wild", "the rule gives w with values that are not finite"),
        ("doubled", "the rule gives w as torch.float64 (1,), expected torch.float32 (1,)"),
        ("nothing", "the rule gives no dictionary of tensors"),
        ("keeping", "kept gives no dictionary of tensors"),
        ("failing", "line 25: AttributeError: 'Received' object has no attribute 'model'"),
        ("absent", "has no function absent; it has momentum, spoiling"),
    ],
)
def test_what_a_users_rule_gives_is_checked(own: str, name: str, told: str) -> None:
    with pytest.raises(FedShieldError, match=rf"^strategy\.name = {re.escape(own)}:{name}: .*{re.escape(told)}"):
        rule(f"{own}:{name}")(received([1.0, -2.0], losses=[1.0, 1.0], images=[30, 10]))


def test_the_rule_of_the_docs(tmp_path: Path) -> None:
    (tmp_path / "clipped.py").write_text(own_file("clipped.py"))
    replies = received([1.0, -2.0, 90.0], losses=[1.0] * 3, images=[30, 10, 10])
    found = rule(f"{tmp_path / 'clipped.py'}:clipped")(replies)
    assert found["w"].item() == pytest.approx((1 - 2 + 2) / 3)  # 90 is shortened to the median 2
    assert found["running_mean"].item() == pytest.approx((30 - 20 + 900) / 50)


def test_a_users_rule_works_on_copies(own: str) -> None:
    replies = received([1.0, -2.0], losses=[1.0, 1.0], images=[30, 10])
    assert rule(f"{own}:spoiling")(replies)["w"].item() == 1.0
    assert replies.before["w"].item() == 0.0


def test_a_users_rule_has_what_it_kept_on_every_engine_and_when_resumed(own: str, tmp_path: Path) -> None:
    changes = {"strategy__name": f"{own}:momentum", "federation__rounds": 3}
    whole = run(tmp_path, "whole", **changes)
    assert (whole / "own" / "strategy.py").read_text() == OWN
    assert load_kept(whole, read_checkpoint(whole) or {}, "server")

    other = run_with(Processes, tmp_path, "other", **changes)
    assert same(weights(other), weights(whole))

    part = run_in_parts(tmp_path, lambda reply: reply.server_round == 3, **changes)
    assert same(weights(part), weights(whole))
    assert figures(part) == figures(whole)
    Path(own).write_text(OWN + "\n")
    with pytest.raises(FedShieldError, match="has changed since the run started"):
        run(tmp_path, "again", results__resume=str(part), **{**changes, "federation__rounds": 4})
