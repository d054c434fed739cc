"""Client-level differential privacy: the arithmetic by hand, what one client can move, epsilon by its formula."""

import logging
import math
import sys

import numpy as np
import pytest
import torch
from dp_accounting import rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.flat import default_config, merge
from common.config.tables import PrivacyConfig
from common.errors import FedShieldError
from common.factory import make_federated_method, make_model
from common.messages.records import State, to_record, to_state
from common.seeding import rng_for
from server.aggregation.accounting import epsilon, planned_rounds, sufficient_noise
from server.aggregation.private import Privacy, count_noise, update_noise
from server.aggregation.selection import Cohort
from server.preflight import check_settings
from server.privacy import find_privacy, tell_privacy
from server.run_directory.reader import CENTRALIZED, DEPLOYED, FEDERATION
from tests.helpers.settings import tiny_config

BEFORE = {"w": torch.tensor([1.0, 1.0]), "running_var": torch.tensor([1e-3]), "seen": torch.tensor(5)}


def settings_of(**changes: object) -> PrivacyConfig:
    return tiny_config(
        **{f"privacy__{key}": value for key, value in {"noise_multiplier": 2.0, **changes}.items()}
    ).privacy


def reply(w: tuple[float, float], variance: float = 1e-3, seen: int = 9) -> State:
    return {"w": torch.tensor(w), "running_var": torch.tensor([variance]), "seen": torch.tensor(seen)}


def mean_of(privacy: Privacy, *replies: State, server_round: int = 1, before: State = BEFORE) -> State:
    mean = privacy.mean(to_record(before), server_round)
    for number, arrays in enumerate(replies):
        mean.add(to_record(arrays), 10.0**number)  # numbers of images, which must not count
    return to_state(mean.result())


def test_the_mean_by_hand() -> None:
    # Four clients are asked, two reply. (3, 4) has length 5 and becomes (0.6, 0.8); (0.3, 0.4) is short enough.
    made = mean_of(Privacy(settings_of(), 4, seed=7, spent=float), reply((4.0, 5.0)), reply((1.3, 1.4)))
    noise = rng_for(7, "privacy", 1).standard_normal(3) * 2.0 * 1.0 / 4
    assert made["w"].numpy() == pytest.approx([1 + 0.9 / 4 + noise[0], 1 + 1.2 / 4 + noise[1]], abs=1e-6)
    assert made["running_var"].item() == pytest.approx(max(0.0, 1e-3 + noise[2]), abs=1e-6)
    assert made["seen"].item() == 5  # a counter would tell how many images a client has
    assert [made[name].dtype for name in BEFORE] == [array.dtype for array in BEFORE.values()]


def test_statistics_are_inside_the_clipped_length() -> None:
    quiet = settings_of(noise_multiplier=1e-9)
    made = mean_of(Privacy(quiet, 1, seed=1, spent=float), reply((4.0, 1.0), variance=4.001))  # (3, 0, 4), length 5
    assert made["w"].numpy() == pytest.approx([1.6, 1.0], abs=1e-6)
    assert made["running_var"].item() == pytest.approx(1e-3 + 0.8, abs=1e-6)


def test_what_is_fixed_gets_neither_updates_nor_noise() -> None:
    made = mean_of(Privacy(settings_of(), 2, seed=1, spent=float, fixed={"w"}), reply((4.0, 5.0), variance=2.001))
    assert torch.equal(made["w"], BEFORE["w"])
    noise = rng_for(1, "privacy", 1).standard_normal(1)[0] * 2.0 / 2  # of an update of length 2, clipped to 1
    assert made["running_var"].item() == pytest.approx(max(0.0, 1e-3 + 1 / 2 + noise), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    others=st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), max_size=4),
    one=st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32)),
    variance=st.floats(0, 1e6, width=32),
)
def test_no_client_moves_the_mean_by_more_than_the_noise_is_made_for(
    others: list[tuple[float, float]], one: tuple[float, float], variance: float
) -> None:
    # One and the same noise, with and without the client, whether others reply or not.
    base = {**BEFORE, "w": BEFORE["w"].double(), "running_var": torch.tensor([9.0]).double()}  # never below 0

    def result(*replies: State) -> State:
        wide = [{name: array.double() if name != "seen" else array for name, array in each.items()} for each in replies]
        return mean_of(Privacy(settings_of(noise_multiplier=0.1), 5, seed=3, spent=float), *wide, before=base)

    rest = [reply(other, 9.0) for other in others]
    there, gone = result(*rest, reply(one, variance)), result(*rest)
    moved = math.sqrt(sum(float(((there[name] - gone[name]) ** 2).sum()) for name in ("w", "running_var")))
    assert moved <= 1.0 / 5 + 1e-9


def test_the_noise_has_its_length_and_follows_from_seed_and_round() -> None:
    before = {"w": torch.zeros(20_000)}
    privacy = Privacy(settings_of(clipping_norm=3.0), 8, seed=5, spent=float)
    first, again, later = (mean_of(privacy, before, server_round=n, before=before)["w"] for n in (1, 1, 2))
    assert float(first.std()) == pytest.approx(2.0 * 3.0 / 8, rel=0.03)
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    secret = Privacy(settings_of(), 8, seed=None, spent=float)
    one, two = (mean_of(secret, before, before=before)["w"] for _ in range(2))
    assert not torch.equal(one, two)
    assert [made.report(1)["noise"] for made in (privacy, secret)] == ["seeded", "secret"]


def test_adaptive_clipping_by_hand() -> None:
    chosen = settings_of(noise_multiplier=0.1, adaptive_clipping=0.5)
    privacy = Privacy(chosen, 4, seed=7, spent=float)
    mean_of(privacy, reply((4.0, 5.0)), reply((1.3, 1.4)), reply((1.1, 1.0)))  # two of three are short
    rng = rng_for(7, "privacy", 1)
    rng.standard_normal(2), rng.standard_normal(1)  # of the arrays
    told = (2 - 1) / 2 + rng.normal(0, 4 / 20)
    assert privacy.clipping_norm == pytest.approx(math.exp(-0.2 * (0.5 + told / 4 - 0.5)))
    assert privacy.report(1) == {"epsilon": 1.0, "delta": 1e-5, "noise": "seeded", "clipping-norm": 1.0, "clipped": 1}
    assert Privacy(chosen, 4, 7, float, kept=privacy.kept()).clipping_norm == privacy.clipping_norm  # to the last bit


def test_updates_and_count_together_cost_what_z_costs() -> None:
    for z, clients in ((0.5, 100), (1.0, 10), (3.0, 10)):
        updates = update_noise(settings_of(noise_multiplier=z, adaptive_clipping=0.5), clients)
        count = count_noise(z, clients)
        assert count >= clients / 20
        assert updates**-2 + (2 * count) ** -2 == pytest.approx(z**-2)  # each client changes the count by 1/2 at most
        assert z < updates <= 1.16 * z
    assert update_noise(settings_of(), 10) == 2.0


def test_the_norm_settles_at_the_quantile() -> None:
    before, lengths = {"w": torch.zeros(1)}, np.linspace(0.1, 10, 100)
    privacy = Privacy(settings_of(noise_multiplier=0.5, adaptive_clipping=0.3), 100, seed=1, spent=float)
    for server_round in range(1, 100):
        mean_of(privacy, *({"w": torch.tensor([x])} for x in lengths), server_round=server_round, before=before)
    assert privacy.clipping_norm == pytest.approx(np.quantile(lengths, 0.3), rel=0.15)


@pytest.mark.parametrize(("z", "rounds"), [(0.7, 1), (1.0, 16), (4.0, 100)])
def test_epsilon_is_that_of_the_formula(z: float, rounds: int) -> None:
    config = tiny_config(privacy__noise_multiplier=z, federation__rounds=rounds)
    log_delta, orders = math.log(1e-5), rdp.RdpAccountant().orders
    divergences = [(order, rounds * order / (2 * z**2)) for order in orders]
    by_hand = min(
        value + math.log1p(-1 / order) - (log_delta + math.log(order)) / (order - 1) for order, value in divergences
    )
    assert epsilon(config, rounds) == pytest.approx(by_hand, rel=1e-9)
    assert epsilon(config, 0) == 0


def test_a_round_costs_those_alone_who_are_asked() -> None:
    config = tiny_config(
        privacy__noise_multiplier=1.0, federation__fraction=0.3, federation__rounds=12, partition__scheme="iid"
    )
    cohort = Cohort(3, 3, (0,) * 10, config.seed)
    asked = [client for number in range(1, 13) for client in cohort.sample(number)]
    most = max(asked.count(client) for client in range(10))
    everybody = tiny_config(privacy__noise_multiplier=1.0, federation__rounds=12)
    assert 4 <= most < 12
    assert epsilon(config, 12) == epsilon(everybody, most)


def test_the_budget_ends_the_run_before_it_is_exceeded() -> None:
    given = {"privacy__noise_multiplier": 1.0, "federation__rounds": 20}
    rounds = planned_rounds(tiny_config(privacy__epsilon_max=8.0, **given))
    assert epsilon(tiny_config(**given), rounds) <= 8 < epsilon(tiny_config(**given), rounds + 1)
    assert planned_rounds(tiny_config(privacy__epsilon_max=1e6, **given)) == 20
    exact = epsilon(tiny_config(**given), 7)
    assert planned_rounds(tiny_config(privacy__epsilon_max=exact, **given)) == 7
    for wanted in (1, 20):
        noise = sufficient_noise(tiny_config(privacy__epsilon_max=3.0, **given), wanted)
        within = {**given, "privacy__noise_multiplier": noise}
        assert epsilon(tiny_config(**within), wanted) <= 3
        assert epsilon(tiny_config(**{**within, "privacy__noise_multiplier": 0.98 * noise}), wanted) > 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"strategy__name": "krum"}, "strategy.name = krum: has no differential privacy"),
        ({"strategy__name": "qfedavg"}, "set strategy.name to one of fedavg, fedavgm, fedadagrad, fedadam, fedyogi"),
        ({"method__name": "scaffold"}, "method.name = scaffold: has no differential privacy: clients send more"),
        ({"method__name": "sfat"}, "method.name = sfat: .* weighs replies"),
        ({"federation__selection": "size", "federation__fraction": 0.5}, "set federation.selection=uniform"),
        ({"privacy__delta": 0.1}, "privacy.delta = 0.1: with 10 clients.* below 1 / 10"),
        ({"privacy__epsilon_max": 2.0}, "one round with .* = 1 has epsilon 4.73; raise the noise to .* for all 2"),
        ({"privacy__epsilon_max": 2.0, "privacy__noise_multiplier": 0.0}, "without noise there is no epsilon"),
    ],
)
def test_what_breaks_the_guarantee_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(FedShieldError, match=told):
        check_settings(tiny_config(**{"privacy__noise_multiplier": 1.0, **changes}), FEDERATION)


def test_a_missing_accountant_is_found_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(FedShieldError, match=r"privacy.noise-multiplier = 1.23: needs dp-accounting; run: uv sync"):
        check_settings(tiny_config(privacy__noise_multiplier=1.23), FEDERATION)


def test_a_model_that_leaves_before_it_is_kept_is_refused() -> None:
    config = tiny_config(privacy__noise_multiplier=1.0, method__fine_tune_epochs=1)
    check_settings(config, FEDERATION)
    with pytest.raises(FedShieldError, match=r"method.fine-tune-epochs = 1: has no differential privacy"):
        check_settings(config, DEPLOYED)


@pytest.mark.parametrize(
    "changes",
    [{"method__name": name} for name in ("fedprox", "moon", "mixfat", "dbfat", "fedbn", "fedper", "fedrep", "ditto")]
    + [{"strategy__name": name} for name in ("fedavgm", "fedadam")]
    + [{"federation__selection": "size"}, {"federation__fraction": 0.5}],
    ids=str,
)
def test_what_keeps_the_guarantee_is_not(changes: dict[str, object]) -> None:
    check_settings(tiny_config(privacy__noise_multiplier=1.0, **changes), FEDERATION)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("noise_multiplier", -1.0), ("clipping_norm", 0.0), ("adaptive_clipping", 1.0), ("delta", 0.0)),
        *(("delta", 1.0), ("epsilon_max", -1.0), ("noise", "loud")),
    ],
)
def test_bad_values_are_named(key: str, value: object) -> None:
    with pytest.raises(FedShieldError, match=f"privacy.{key.replace('_', '-')} = "):
        tiny_config(**{f"privacy__{key}": value})


def test_centralized_training_says_that_it_has_no_clients(caplog: pytest.LogCaptureFixture) -> None:
    check_settings(tiny_config(privacy__noise_multiplier=1.0, strategy__name="krum"), CENTRALIZED)
    assert "privacy.noise-multiplier = 1 has no effect" in caplog.text


def test_noise_is_secret_where_the_clients_are_real() -> None:
    for noise, kind, told in (
        ("auto", FEDERATION, "seeded"),
        ("auto", DEPLOYED, "secret"),
        ("seeded", DEPLOYED, "seeded"),
        ("secret", FEDERATION, "secret"),
    ):
        config = tiny_config(privacy__noise_multiplier=1.0, privacy__noise=noise)
        found = find_privacy(config, make_model(config, 10), make_federated_method(config), kind, {})
        assert found is not None
        assert found.report(0)["noise"] == told


def test_what_stays_with_a_client_gets_no_noise() -> None:
    config = tiny_config(privacy__noise_multiplier=1.0, method__name="fedbn")
    model, method = make_model(config, 10), make_federated_method(config)
    next(model.parameters()).requires_grad_(False)
    found = find_privacy(config, model, method, FEDERATION, {})
    assert found is not None
    assert found.fixed == {next(iter(model.state_dict())), *method.stays(model)}


def test_only_what_gets_noise_is_told(caplog: pytest.LogCaptureFixture) -> None:
    lengths = {}
    for name in ("fedavg", "fedbn"):
        config = tiny_config(privacy__noise_multiplier=1.0, method__name=name)
        model, method = make_model(config, 10), make_federated_method(config)
        with caplog.at_level(logging.INFO, "fedshield"):
            caplog.clear()
            tell_privacy(config, model, method, FEDERATION)
        assert any("statistics of batch normalization" in line for line in caplog.messages) == (name == "fedavg")
        told = next(line for line in caplog.messages if "noise of length" in line)
        lengths[name] = float(told.split("noise of length ")[1].split()[0])
    arrays = model.state_dict()
    floats = [name for name, array in arrays.items() if array.is_floating_point()]
    share = sum(arrays[name].numel() for name in floats if name not in method.stays(model)) / sum(
        arrays[name].numel() for name in floats
    )
    assert 0 < share < 1
    assert lengths["fedbn"] / lengths["fedavg"] == pytest.approx(share**0.5, rel=0.01)


@pytest.mark.parametrize("key", ["privacy.secure-aggregation", "strategy.secaggplus"])
def test_a_wish_for_secure_aggregation_is_answered(key: str) -> None:
    with pytest.raises(FedShieldError, match=f"unknown key {key} .*SecAgg.*docs/privacy.md"):
        merge(default_config(), {key: True}, "--set")
