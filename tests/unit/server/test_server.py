"""Checks of replies, strategy and node list: what the server believes, and how it averages."""

import io
import logging
import math
import pickle
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message
from flwr.serverapp.strategy import FedAvg, Krum

from common.data.datasets import Dataset
from common.errors import DeadEndError, FedShieldError
from common.factory import make_federated_method
from common.messages import shared_slice
from common.messages.records import LiveArray, note_failure, to_record, to_state
from common.messages.shared_slice import find_shared, keep_shared, shared_digest, shared_record
from common.models.networks import build_model
from server.aggregation.outliers import LastRound, judge
from server.aggregation.reply_checks import Checked, RefusedError, ReplyChecks
from server.aggregation.robust import RobustMean
from server.aggregation.selection import Cohort
from server.aggregation.strategy import SharedDataFedAvg
from server.network.roster import Roster
from simulations.engine.executor import InProcess
from simulations.engine.local_grid import LocalGrid
from tests.helpers.settings import tiny_config

pytestmark = pytest.mark.usefixtures("speaking")

MODEL = build_model("cnn", 10, 2, "relu", True, 1)
STATE = MODEL.state_dict()
WEIGHTS = frozenset(name for name, _ in MODEL.named_parameters())
GLOBAL = to_record(STATE)
NODES = (70, 50, 60, 40)  # as random as Flower's: their order is not the clients'
EXAMPLES = (10, 30, 20, 40)


class Seated(Roster):
    """Four clients on their nodes, and nobody to ask."""

    def __init__(self, absent: int = -1) -> None:
        self._present = {client: node for client, node in enumerate(NODES) if client != absent}
        self._failures = {}

    def meet(self, timeout: float | None = None) -> int:
        return len(self._present)


def strategy_of(
    clients: Cohort, shared: ArrayRecord | None = None, completed_rounds: int = 0, absent: int = -1, **given: object
) -> SharedDataFedAvg:
    settings = tiny_config(strategy__update_limit=given.pop("limit", 0.0)).strategy
    given = {"method": make_federated_method(tiny_config()), "weights": WEIGHTS, "engine": True, **given}
    return SharedDataFedAvg(clients, Seated(absent), settings, shared, completed_rounds, **given)  # type: ignore[arg-type]


def cohort(**changes: object) -> Cohort:
    given = {"size": 4, "min_replies": 4, "examples": EXAMPLES, "seed": 1, **changes}
    return Cohort(**given)  # type: ignore[arg-type]


def addressed(message: Message) -> Message:
    """Give a message the id that Flower would give it when it is sent; here, one for each node."""
    message.metadata.__dict__["_message_id"] = f"to {message.metadata.dst_node_id}"
    return message


def reply(client: int, state: dict | None = None, metrics: dict | None = None, error: str = "") -> Message:
    message = addressed(Message(RecordDict(), NODES[client], "train"))
    if error:
        return Message(Error(0, error), reply_to=message)
    content = RecordDict(
        {
            "arrays": to_record(state if state is not None else STATE),
            "metrics": MetricRecord(metrics or {"num-examples": EXAMPLES[client], "loss": 1.0, "seconds": 2.0}),
        }
    )
    return Message(content, reply_to=message)


def noisy_state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + seed
        if not tensor.is_floating_point()
        else torch.randn(tensor.shape, generator=generator).abs()  # some are variances
        for name, tensor in STATE.items()
    }


def started(strategy: SharedDataFedAvg, server_round: int = 1) -> list[Message]:
    grid = LocalGrid(tiny_config(), InProcess())
    return [addressed(message) for message in strategy.configure_train(server_round, GLOBAL, ConfigRecord(), grid)]


# --- records


def test_state_survives_the_way_through_records() -> None:
    found = to_state(GLOBAL)
    assert list(found) == list(STATE)
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in STATE.items())


def test_a_live_array_is_flowers_array_to_everyone_else() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    live, plain = LiveArray(values), Array(values)
    assert live.numpy() is values
    assert (live.dtype, live.shape, live.stype, live.data) == (plain.dtype, plain.shape, plain.stype, plain.data)
    # What goes over the wire is the same to the byte, and is read as an ordinary Array there.
    assert live.deflate() == plain.deflate()
    assert live.object_id == plain.object_id
    read = Array.inflate(live.deflate(), live.children)
    assert type(read) is Array
    assert np.array_equal(read.numpy(), values)
    assert np.array_equal(pickle.loads(pickle.dumps(live)).numpy(), values)


def test_a_record_is_a_copy_of_the_weights() -> None:
    state = {"weight": torch.ones(3)}
    record = to_record(state)
    state["weight"] += 1
    assert to_state(record)["weight"].tolist() == [1, 1, 1]


def test_shared_data_is_kept_by_digest_and_damage_is_noticed(cache) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    record = shared_record(Dataset(images, np.arange(5), ("a",) * 5))
    digest = shared_digest(record)
    assert find_shared(digest) is None
    keep_shared(record, digest)
    shared_slice._kept.clear()  # as in another process of this machine
    path = cache / "shared" / digest / "images.npy"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    assert find_shared(digest) is None
    keep_shared(record, digest)  # what is sent again replaces it
    found = find_shared(digest)
    assert found is not None
    assert np.array_equal(found[0], images)
    other = shared_record(Dataset(images, np.arange(5)[::-1].copy(), ("a",) * 5))
    assert shared_digest(other) != digest


# --- checks of replies


def check(message: Message, examples: int = 10, engine: bool = False, patience: float = 100.0) -> Checked:
    return ReplyChecks(GLOBAL, WEIGHTS, engine).check(message, examples, patience)


def test_a_good_reply_passes() -> None:
    found = check(reply(0))
    assert found.update_norm == 0
    assert dict(found.metrics) == {"num-examples": 10, "loss": 1.0, "seconds": 2.0}
    assert set(found.shifts) == {name for name in STATE if "running_" in name}


def with_array(name: str, array: Array | None) -> Message:
    message = reply(0)
    arrays = message.content.array_records["arrays"]
    if array is None:
        del arrays[name]
    else:
        arrays[name] = array
    return message


def with_config(name: str) -> Message:
    message = reply(0)
    message.content[name] = ConfigRecord({"first-failure": "the server is on fire"})
    return message


def holding(data: bytes) -> Array:
    return Array(dtype="float32", shape=(2, 3, 3, 3), stype="numpy.ndarray", data=data)


KEY = "1.weight"
VARIANCE = next(name for name in STATE if name.endswith("running_var"))
COUNTER = next(name for name, tensor in STATE.items() if not tensor.is_floating_point())
NAN = STATE[KEY].numpy().copy()
NAN[0, 0, 0, 0] = np.nan
GOOD = {"num-examples": 10, "loss": 1.0, "seconds": 2.0}
LYING = Array(dtype="float32", shape=(2, 3, 3, 3), stype="numpy.ndarray", data=Array(np.zeros(1, np.float32)).data)
NOT_NUMPY = holding(b"junk")
_archive, _huge = io.BytesIO(), io.BytesIO()
np.savez(_archive, x=np.zeros(3))
np.lib.format.write_array_header_1_0(_huge, {"descr": "<f4", "fortran_order": False, "shape": (10**13,)})
ARCHIVE, HUGE = _archive.getvalue(), _huge.getvalue()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: reply(0, error="out of memory"), "out of memory"),
        (lambda: with_array(KEY, None), "array keys differ from the model's, first at 1.weight"),
        (lambda: with_array("extra", Array(np.zeros(1))), "array keys differ from the model's, first at extra"),
        (lambda: with_array(KEY, Array(NAN)), "array 1.weight has values that are not finite"),
        (
            lambda: with_array(KEY, Array(np.zeros((1,), np.float32))),
            "array 1.weight is float32 (1,), expected float32 (2, 3",
        ),
        (
            lambda: with_array(VARIANCE, Array(np.array([1, -1], np.float32))),
            f"array {VARIANCE} has a negative variance",
        ),
        (lambda: with_array(KEY, Array(np.zeros((2, 3, 3, 3)))), "array 1.weight is float64"),
        (lambda: with_array(KEY, LYING), "array 1.weight does not contain what it declares"),
        (lambda: with_array(KEY, NOT_NUMPY), "array 1.weight cannot be read"),
        (lambda: with_array(KEY, holding(ARCHIVE)), "array 1.weight does not contain what it declares"),
        (lambda: with_array(KEY, holding(b"PK\x03\x04junk")), "array 1.weight cannot be read"),
        (lambda: with_array(KEY, holding(HUGE)), "array 1.weight cannot be read"),
        (lambda: reply(0, metrics={**GOOD, "num-examples": 10**9}), "num-examples is 1000000000, expected 10"),
        (lambda: reply(0, metrics={**GOOD, "num-examples": -1}), "num-examples is -1, expected 10"),
        (lambda: reply(0, metrics={**GOOD, "num-examples": float("nan")}), "metric num-examples is nan"),
        (
            lambda: reply(0, metrics={**GOOD, "num-examples": [10]}),
            "metric num-examples is [10], expected a finite number",
        ),
        (
            lambda: reply(0, metrics={**GOOD, "loss": 1e300}),
            "metric loss is 1e+300, expected a finite number below 1e+12",
        ),
        (lambda: reply(0, metrics={**GOOD, "loss": float("inf")}), "metric loss is inf, expected a finite number"),
        (
            lambda: reply(0, metrics={**GOOD, "seconds": -1e9}),
            "metric seconds is -1e+09, though it was asked 100 s ago",
        ),
        (lambda: reply(0, metrics={**GOOD, "seconds": 101.0}), "metric seconds is 101, though it was asked 100 s ago"),
        (lambda: with_array(COUNTER, Array(np.array(2**63 - 1))), "has counted from 0 to 9223372036854775807 over 10"),
        (lambda: with_array(COUNTER, Array(np.array(-(2**63)))), "has counted from 0 to -9223372036854775808 over 10"),
        (lambda: with_array(COUNTER, Array(np.array(-1))), f"array {COUNTER} has counted from 0 to -1 over 10 images"),
        (lambda: with_config("engine"), "an unexpected config record 'engine'"),
        (lambda: reply(0, metrics={**GOOD, "extra": 1}), "metrics are ['extra', 'loss', 'num-examples', 'seconds']"),
        (lambda: reply(0, metrics={"loss": 1.0}), "metrics are ['loss'], expected"),
    ],
)
def test_a_bad_reply_is_refused_and_says_why(make, reason: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check(make())
    assert reason in str(caught.value)


def test_the_checks_refuse_a_reply_with_too_many_records() -> None:
    message = reply(0)
    message.content["more"] = to_record(STATE)
    with pytest.raises(RefusedError, match=r"^2 array records and 1 metric records, expected 1 and 1$"):
        check(message)


def moved(by: float, name: str = KEY) -> dict[str, torch.Tensor]:
    """The model with one array moved; the usual one has 54 values."""
    return {**STATE, name: STATE[name] + by}


def test_the_checks_measure_weights_and_statistics_apart() -> None:
    assert check(reply(0, moved(2.0))).update_norm == pytest.approx(2 * 54**0.5)
    counted = {name: tensor + 7 if not tensor.is_floating_point() else tensor for name, tensor in STATE.items()}
    assert check(reply(0, counted)).update_norm == 0  # counters are no update
    found = check(reply(0, moved(3.0, VARIANCE)))
    assert found.update_norm == 0
    assert found.shifts[VARIANCE] == pytest.approx(3 * STATE[VARIANCE].numel() ** 0.5)
    assert {name for name, shift in found.shifts.items() if shift} == {VARIANCE}
    # So long that its square is no float32 any more, which is not the same as not finite.
    assert check(reply(0, moved(1e25))).update_norm == pytest.approx(1e25 * 54**0.5)


def test_a_checked_reply_keeps_its_values_where_they_are() -> None:
    message = reply(0, noisy_state(3))
    arrays = message.content.array_records["arrays"]
    found = check(message).arrays
    assert all(np.shares_memory(found[name].numpy(), arrays[name].numpy()) for name in STATE)


def test_a_checked_reply_has_the_models_order_whatever_the_clients() -> None:
    message = reply(0, noisy_state(3))
    arrays = message.content.array_records["arrays"]
    message.content.array_records["arrays"] = ArrayRecord({name: arrays[name] for name in reversed(list(arrays))})
    message.content.metric_records["metrics"] = MetricRecord({"seconds": 2.0, "loss": 1.0, "num-examples": 10})
    found = check(message)
    assert list(found.arrays) == list(STATE)
    assert all(np.array_equal(found.arrays[name].numpy(), arrays[name].numpy()) for name in STATE)
    assert list(found.metrics) == ["num-examples", "loss", "seconds"]


# --- outliers: which replies differ too much from the others


def test_the_checks_pass_on_the_arrays_that_came_not_copies() -> None:
    sent = reply(0)
    arrays = next(iter(sent.content.array_records.values()))
    assert all(array is arrays[name] for name, array in check(sent).arrays.items())


def judged(updates: list[float], limit: float, before: float | None = None, **losses: float) -> dict[int, str]:
    replies = {}
    for client, update in enumerate(updates):
        metrics = {**GOOD, "loss": losses.get(f"loss{client}", 1.0)}
        replies[client] = check(reply(0, moved(update / 54**0.5), metrics))
    return judge(replies, GLOBAL, limit, before and LastRound(before, 2.0)).refused


def test_an_update_is_compared_with_the_median_of_its_round() -> None:
    assert judged([1, 2, 3, 8.9], 4.5, before=2) == {}  # votes 1, 2, 2, 3, 8.9
    assert judged([1, 2, 3, 9.1], 4.5, before=2) == {3: "the norm of its update is 9.1, strategy.update-limit allows 9"}
    assert judged([1, 2, 4, 9], 4) == {3: "the norm of its update is 9, strategy.update-limit allows 8"}  # 2, not 3
    assert set(judged([100, 100, 100, 1], 2, before=1)) == set()  # what all have grown to is no lie
    assert set(judged([100, 1], 5)) == {0}
    # Of two replies the last round says which is the liar, whatever the liar sends.
    assert set(judged([1, 1000], 5, before=1.1)) == {1}
    assert set(judged([1, 0.001], 5, before=1.1)) == set()
    assert judged([7], 5, before=1) == {}
    assert judge({}, GLOBAL, 5).believed == {}


def test_statistics_neither_hide_a_lie_about_weights_nor_count_as_one() -> None:
    """Honest weights move by 1, one variance by 1000 in each reply: 5.1 is lost in that if both make one norm."""

    def with_statistics(update: float, shift: float) -> Checked:
        return check(reply(0, {**moved(update / 54**0.5), VARIANCE: STATE[VARIANCE] + shift}))

    honest = {client: with_statistics(1.0, 1000) for client in range(4)}
    assert set(judge({**honest, 4: with_statistics(5.1, 1000)}, GLOBAL, 5).refused) == {4}
    assert set(judge({**honest, 4: with_statistics(5.1, 0)}, GLOBAL, 5).refused) == {4}
    about_statistics = judge({**honest, 4: with_statistics(1.0, 1e6)}, GLOBAL, 5)
    assert about_statistics.refused == {}
    assert about_statistics.shortened == {4: [VARIANCE]}


def test_a_loss_is_compared_with_the_median_of_its_round() -> None:
    assert judged([1, 1, 1], 5, loss0=11.0) == {}
    assert judged([1, 1, 1], 5, loss0=9e11) == {0: "its loss is 9e+11, the median of this round is 1"}
    assert set(judged([1, 1, 1], 5, loss0=-9.1)) == {0}
    assert set(judged([1, 1, 1], 5, loss0=30.0, loss1=31.0, loss2=300.0)) == set()  # 31 ± 310
    for lie in (9e11, -9e11):
        assert set(judged([1, 1], 5, loss0=lie)) == {0}
        assert set(judged([1, 1], 5, before=1, loss0=lie)) == {0}
        assert set(judged([1, 1, 1, 1], 5, before=1, loss0=lie, loss1=lie)) == {0, 1}
    # Of two replies the last round says which is the liar: its loss was 2.
    assert set(judged([1, 1], 5, before=1, loss0=0.0, loss1=15.0)) == set()
    assert set(judged([1, 1], 5, loss0=0.0, loss1=15.0)) == {1}


def test_statistics_are_bounded_array_by_array_however_large_another_is() -> None:
    mean = VARIANCE.replace("running_var", "running_mean")

    def with_statistics(own: float) -> Checked:
        return check(reply(0, {**moved(own, VARIANCE), mean: STATE[mean] + 1000}))

    def variances(usual: float, own: float) -> list[float]:
        found = judge({**{c: with_statistics(usual) for c in range(3)}, 3: with_statistics(own)}, GLOBAL, 3)
        assert found.refused == {}
        assert set(found.shortened) == ({3} if found.shortened else set())
        assert found.shortened.get(3, [VARIANCE]) == [VARIANCE]
        assert np.array_equal(found.believed[3].arrays[mean].numpy(), STATE[mean].numpy() + 1000)
        assert list(found.believed[3].arrays) == list(STATE)
        return found.believed[3].arrays[VARIANCE].numpy().tolist()  # they were ones

    # Twice the limit times the others' change, which is more than the norm of the variances.
    assert variances(2.0, 11.9) == pytest.approx([12.9, 12.9])
    assert variances(2.0, 1e6) == pytest.approx([13, 13])
    # Where the others hardly change, what is no longer than the array itself does no harm.
    assert variances(0.01, 0.99) == pytest.approx([1.99, 1.99])
    assert variances(0.01, 30.0) == pytest.approx([2, 2])


def test_shortened_statistics_are_told(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fedshield").propagate = True
    caplog.set_level(logging.INFO, "fedshield")
    strategy = strategy_of(cohort(), limit=5.0)
    started(strategy)
    arrays, _ = strategy.aggregate_train(1, [*(reply(client) for client in range(3)), reply(3, moved(99.0, VARIANCE))])
    assert arrays is not None
    assert arrays[VARIANCE].numpy().tolist() == pytest.approx([1.4, 1.4])  # client 3, of weight 0.4, may add 1
    assert strategy.report["shortened"] == {"3": VARIANCE}
    assert f"round 1: statistics far from the others' shortened (client 3: 1, {VARIANCE} first)" in caplog.text


def test_the_size_of_a_network_does_not_decide_what_its_first_round_may_do() -> None:
    """Statistics of batch norm can move by thousands in the first round; honest clients all do."""
    shared = {name: tensor + 4000 if name.endswith("running_var") else tensor for name, tensor in STATE.items()}
    replies = {client: check(reply(0, {**shared, KEY: STATE[KEY] + 0.1})) for client in range(4)}
    found = judge(replies, GLOBAL, 3)
    assert (found.refused, found.shortened, found.believed) == ({}, {}, replies)


def test_an_update_many_times_too_large_is_refused_in_every_round() -> None:
    strategy = strategy_of(cohort(min_replies=3), limit=5.0)
    for server_round in range(1, 7):  # honest updates shrink as training goes on
        honest = 20 * 0.3**server_round
        started(strategy, server_round)
        states = [moved(sign * honest / 54**0.5) for sign in (1, -1, 1)]
        replies = [reply(client, state) for client, state in enumerate(states)]
        strategy.aggregate_train(server_round, [*replies, reply(3, moved(6 * honest / 54**0.5))])
        assert list(strategy.report["clients"]) == ["0", "1", "2"]
        assert strategy.report["refused"]["3"].startswith("the norm of its update is ")
        assert strategy.report["update-norm"] == pytest.approx(honest, rel=1e-3)


def test_krum_is_not_deceived_by_a_reply_whose_names_have_changed_places() -> None:
    """Flower measures by place. A liar puts honest values in honest places, but under the names of their neighbors."""
    one, other = (name for name, tensor in STATE.items() if name in WEIGHTS and tensor.shape == (2,))
    honest = [{n: t + 0.01 * (c + 1) if n in WEIGHTS else t for n, t in STATE.items()} for c in range(4)]
    middle = {n: t + 0.025 if n in WEIGHTS else t for n, t in STATE.items()}
    swapped = {{one: other, other: one}.get(name, name): tensor for name, tensor in middle.items()}
    states = [*honest, swapped]

    whole, _ = Krum(num_malicious_nodes=1).aggregate_train(1, [reply(0, state) for state in states])
    assert whole is not None
    assert torch.equal(to_state(whole)[one], middle[other])  # as it comes, the lie is the one in the middle
    for arrays in ([to_record(state) for state in states], [check(reply(0, state)).arrays for state in states]):
        mean = RobustMean("krum", 1, GLOBAL, WEIGHTS)
        for each in arrays:
            mean.add(each, 10)
        found = to_state(mean.result())
        assert any(torch.equal(found[one], state[one]) for state in honest)


# --- strategy


def test_average_equals_flowers_fedavg_bit_for_bit_and_integers_stay_integers() -> None:
    replies = [reply(client, noisy_state(client + 1)) for client in range(4)]
    expected, _ = FedAvg().aggregate_train(1, replies)
    strategy = strategy_of(cohort())
    started(strategy)
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert expected is not None
    for name, tensor in STATE.items():
        found = arrays[name].numpy()
        assert found.dtype == tensor.numpy().dtype
        if tensor.is_floating_point():
            assert np.array_equal(found, expected[name].numpy())
        else:  # 1, 2, 3, 4 weighted by 10, 30, 20, 40: 2.9
            assert found == 3
    assert metrics is not None
    assert metrics["loss"] == pytest.approx(1.0)


def test_average_by_hand_and_independent_of_the_order_of_arrival() -> None:
    constant = [{name: torch.full_like(tensor, float(client)) for name, tensor in STATE.items()} for client in range(4)]
    replies = [reply(client, constant[client]) for client in range(4)]
    strategy = strategy_of(cohort())
    started(strategy)
    arrays, _ = strategy.aggregate_train(1, replies)
    # (0·10 + 1·30 + 2·20 + 3·40) / 100 = 1.9
    assert arrays is not None
    assert arrays[KEY].numpy().ravel().tolist() == pytest.approx([1.9] * 54)
    noisy = [reply(client, noisy_state(client + 1)) for client in range(4)]
    results = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
        started(strategy)
        found, _ = strategy.aggregate_train(1, [noisy[client] for client in order])
        assert found is not None
        results.append(found[KEY].numpy().tobytes())
    assert len(set(results)) == 1


def test_a_bad_reply_is_left_out_named_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fedshield").propagate = True
    strategy = strategy_of(cohort(min_replies=3))
    started(strategy)
    bad = {
        name: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor
        for name, tensor in STATE.items()
    }
    arrays, _ = strategy.aggregate_train(1, [reply(0), reply(1, bad), reply(2), reply(3)])
    assert arrays is not None
    assert all(np.isfinite(array.numpy()).all() for array in arrays.values())
    assert "round 1: client 1 left out: array" in caplog.text
    assert list(strategy.report["clients"]) == ["0", "2", "3"]
    assert list(strategy.report["refused"]) == ["1"]


def test_the_average_of_those_that_are_left_is_weighed_anew() -> None:
    constant = [{name: torch.full_like(tensor, float(client)) for name, tensor in STATE.items()} for client in range(4)]
    strategy = strategy_of(cohort(min_replies=3))
    started(strategy)
    arrays, _ = strategy.aggregate_train(1, [reply(client, constant[client]) for client in (0, 1, 3)])
    # (0·10 + 1·30 + 3·40) / 80 = 1.875; the counters are rounded: 2
    assert arrays is not None
    assert arrays[KEY].numpy().ravel().tolist() == pytest.approx([1.875] * 54)
    counters = [arrays[name].numpy() for name, tensor in STATE.items() if not tensor.is_floating_point()]
    assert counters
    assert all(counter == 2 and counter.dtype == np.int64 for counter in counters)


def test_no_round_holds_all_its_replies() -> None:
    strategy = strategy_of(cohort())
    started(strategy)
    alive: list[weakref.ref[Message]] = []
    most = 0

    def arriving() -> Iterator[Message]:
        nonlocal most
        for client in range(4):
            message = reply(client)
            alive.append(weakref.ref(message))
            yield message
            del message
            most = max(most, sum(reference() is not None for reference in alive))

    strategy.aggregate_train(1, arriving())
    assert len(alive) == 4
    assert most <= 2


def test_a_client_that_ran_twice_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("fedshield").propagate = True
    strategy = strategy_of(cohort())
    started(strategy)
    replies = [reply(client) for client in range(4)]
    note_failure(replies[2].content, "its worker died\n(somehow)")
    strategy.aggregate_train(1, replies)
    assert strategy.report["retried"] == {"2": "its worker died (somehow)"}
    assert strategy.report["refused"] == {}
    assert "round 1: client 2 ran again: its worker died (somehow)" in caplog.text


def test_too_few_valid_replies_end_the_run_with_every_reason() -> None:
    strategy = strategy_of(cohort(min_replies=3))
    started(strategy)
    with pytest.raises(FedShieldError) as caught:
        strategy.aggregate_train(1, [reply(0), reply(2, error="no space left"), reply(3)])
    assert str(caught.value) == (
        "round 1: 2 valid replies of 4, federation.min-fraction asks for 3: "
        "client 1: no reply in time; client 2: no space left"
    )
    strategy = strategy_of(cohort(min_replies=3))
    started(strategy)
    with pytest.raises(FedShieldError, match="asks for 3: client 0: no reply in time; client 1, 2, 3: no space"):
        strategy.aggregate_train(1, [reply(client, error="no space") for client in (1, 2, 3)])


def test_a_round_that_would_fail_again_names_the_cause_and_the_ways_out() -> None:
    """Nothing of it changes when the run is resumed as it is."""
    near, far = ({name: tensor + shift for name, tensor in STATE.items()} for shift in (1, 100))
    strategy = strategy_of(cohort(), limit=5.0)
    started(strategy)
    with pytest.raises(DeadEndError) as caught:
        strategy.aggregate_train(1, [reply(0, near), reply(1, near), reply(2, near), reply(3, far)])
    told = str(caught.value)
    assert told.startswith("round 1: 3 valid replies of 4, federation.min-fraction asks for 4: client 3: the norm of ")
    assert told.endswith(
        "clients with few or very different images differ so much, and so do liars: start a new run with a higher "
        "strategy.update-limit (0: no comparison), or, where training diverges, a lower train.learning-rate; or "
        "continue without them with a lower federation.min-fraction"
    )
    strategy = strategy_of(cohort())
    started(strategy)
    diverged = {"loss": math.nan, "seconds": 2.0}
    with pytest.raises(DeadEndError, match="; training has diverged: start a new run with a lower train"):
        strategy.aggregate_train(1, [reply(c, metrics={"num-examples": EXAMPLES[c], **diverged}) for c in range(4)])


def test_a_client_that_is_set_aside_is_none_that_may_answer_well_next_time() -> None:
    strategy = strategy_of(cohort(min_replies=3, away=frozenset({0})))
    started(strategy)
    diverged = reply(3, metrics={"num-examples": EXAMPLES[3], "loss": math.nan, "seconds": 2.0})
    with pytest.raises(DeadEndError, match=r"^round 1: 2 valid replies of 3, federation\.min-fraction asks for 3"):
        strategy.aggregate_train(1, [reply(1), reply(2), diverged])


def test_a_round_that_may_succeed_when_a_client_is_back_is_no_dead_end() -> None:
    far = {name: tensor + 100 for name, tensor in STATE.items()}
    near = {name: tensor + 1 for name, tensor in STATE.items()}
    strategy = strategy_of(cohort(min_replies=3), limit=5.0)
    started(strategy)
    with pytest.raises(FedShieldError, match="asks for 3: client 1: no space left; client 3: the norm") as caught:
        strategy.aggregate_train(1, [reply(0, near), reply(1, error="no space left"), reply(2, near), reply(3, far)])
    assert not isinstance(caught.value, DeadEndError)


def test_shared_data_goes_once_to_each_client_and_again_after_a_failure() -> None:
    images = np.zeros((3, 3, 8, 8), dtype=np.uint8)
    shared = shared_record(Dataset(images, np.arange(3), ("a", "b", "c")))
    strategy = strategy_of(cohort(min_replies=1), shared)

    def receivers(server_round: int) -> list[bool]:
        messages = started(strategy, server_round)
        assert [message.metadata.dst_node_id for message in messages] == list(NODES)
        digests = {message.content.config_records["config"]["shared-digest"] for message in messages}
        assert digests == {shared_digest(shared)}
        return ["shared" in message.content for message in messages]

    assert receivers(1) == [True] * 4
    strategy.aggregate_train(1, [reply(0), reply(1), reply(2, error="lost")])
    assert receivers(2) == [False, False, True, True]
    strategy.aggregate_train(2, [reply(client) for client in range(4)])
    assert receivers(3) == [False] * 4


def test_without_shared_data_the_messages_are_fedavgs() -> None:
    strategy = strategy_of(cohort())
    for message in started(strategy, 2):
        assert set(message.content) == {"arrays", "config"}
        assert dict(message.content.config_records["config"]) == {"server-round": 2}


def test_a_resumed_strategy_goes_on_counting_and_sampling() -> None:
    whole = [cohort(size=2).sample(server_round) for server_round in range(1, 9)]
    assert {len(clients) for clients in whole} == {2}
    assert len({tuple(clients) for clients in whole}) > 1
    resumed = strategy_of(cohort(size=2), completed_rounds=5)
    messages = started(resumed, 1)
    assert [NODES.index(message.metadata.dst_node_id) for message in messages] == whole[5]
    assert messages[0].content.config_records["config"]["server-round"] == 6


def test_what_flower_says_of_a_dead_node_counts_for_the_client_that_was_asked() -> None:
    strategy = strategy_of(cohort(min_replies=3))
    started(strategy)
    asked = addressed(Message(RecordDict(), NODES[2], "train"))
    unavailable = create_message_error_unavailable_res_message(asked.metadata, "node_unavail")
    assert unavailable.metadata.src_node_id not in NODES
    strategy.aggregate_train(1, [reply(0), unavailable, reply(1), reply(3)])
    assert list(strategy.report["clients"]) == ["0", "1", "3"]
    assert "Node Unavailable" in strategy.report["refused"]["2"]


def test_a_client_that_is_not_connected_is_not_waited_for() -> None:
    images = np.zeros((3, 3, 8, 8), dtype=np.uint8)
    shared = shared_record(Dataset(images, np.arange(3), ("a", "b", "c")))
    strategy = strategy_of(cohort(min_replies=3), shared, absent=1)
    messages = started(strategy)
    assert [message.metadata.dst_node_id for message in messages] == [70, 60, 40]
    strategy.aggregate_train(1, [reply(0), reply(2), reply(3)])
    assert strategy.report["refused"] == {"1": "not connected"}
    strategy.roster = Seated()
    assert ["shared" in message.content for message in started(strategy, 2)] == [False, True, False, False]
