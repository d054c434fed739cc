"""What is done against a trouble, by hand: when, how often, and when not."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from server.diagnosis.diagnosis import MILD, SEVERE, Diagnosis
from server.repair.rounds import RoundRepair, is_good
from server.repair.treat import treat
from server.repair.treatment import Action, Limits, Treatment
from tests.helpers.settings import tiny_config

LIMITS = Limits(
    cool_down=3,
    most=2,
    rate_factor=0.5,
    steps=1,
    attack_steps=7,
    epochs=4,
    sharing=0.2,
    sharing_step=0.15,
    sharing_budget=0.4,
    proximal=0.1,
    quarantine=3,
    spare=2,
)


def severe(name: str, *clients: int) -> Diagnosis:
    return Diagnosis(name, SEVERE, "seen", 1, 0, clients)


def course(
    troubles: Sequence[Sequence[Diagnosis]], limits: Limits = LIMITS
) -> tuple[list[Treatment], list[tuple[int, str]]]:
    """Return the treatment after each round, and the actions with their round."""
    treatments, actions, now = [], [], Treatment()
    for number, diagnoses in enumerate(troubles, 1):
        now, done = treat(now, number, diagnoses, limits)
        treatments.append(now)
        actions += [(number, action.name) for action in done]
    return treatments, actions


def test_divergence_goes_back_at_a_lower_rate_and_at_most_twice() -> None:
    found, actions = course([[severe("divergence")]] * 12)
    assert actions == [(1, "roll-back"), (5, "roll-back"), (9, "none")]
    assert [each.rate for each in found[:6]] == [0.5, 0.5, 0.5, 0.5, 0.125, 0.125]
    assert [number for number, each in enumerate(found, 1) if each.back] == [1, 5]
    assert (found[0].first, found[4].first) == (2, 6)  # what came before is not judged any more


def test_nothing_is_done_for_what_is_mild_or_was_not_seen_in_the_round() -> None:
    gone = replace(severe("divergence"), clean=1)
    assert course([[Diagnosis("divergence", MILD, "seen", 1)], [gone], [severe("masked-gradients")]])[1] == []


def test_catastrophic_overfitting_is_answered_by_a_longer_attack_once() -> None:
    found, _ = course([[severe("catastrophic-overfitting")]] * 5)
    assert (found[0].longer, found[0].rate, found[0].back) == (True, 0.5, True)
    assert found[4].rate == 0.125
    long_already, _ = course([[severe("catastrophic-overfitting")]], replace(LIMITS, steps=10))
    assert (long_already[0].longer, long_already[0].back) == (False, True)


def test_robust_overfitting_lowers_the_rate_then_averages_and_then_ends() -> None:
    found, actions = course([[severe("robust-overfitting")]] * 10)
    assert actions == [(1, "lower-rate"), (5, "average"), (9, "end")]
    assert [each.average for each in found[3:6]] == [0, 6, 6]  # the first model that counts is that of round 6
    assert [each.rate for each in found[3:6]] == [0.5, 0.5, 0.5]
    assert not found[7].end
    assert found[8].end


def test_a_mean_of_models_begins_anew_when_the_run_goes_back() -> None:
    quiet: list[Diagnosis] = []
    found, actions = course(
        [[severe("robust-overfitting")], [severe("robust-overfitting")], quiet, [severe("divergence")], quiet],
        replace(LIMITS, cool_down=0),
    )
    assert actions == [(1, "lower-rate"), (2, "average"), (4, "roll-back")]
    assert [each.average for each in found] == [0, 3, 3, 5, 5]
    assert course([[severe("divergence")]])[0][0].average == 0


def test_drift_uses_up_the_budget_then_epochs_then_the_proximal_term() -> None:
    found, actions = course([[severe("client-drift")]] * 25, replace(LIMITS, cool_down=0))
    assert [name for _, name in actions] == [
        *("share-more", "share-more", "fewer-epochs", "fewer-epochs", "proximal-term", "none")
    ]
    assert [each.sharing for each in found[:3]] == pytest.approx([0.35, 0.4, 0.4])  # the last step is cut
    assert (found[-1].epochs, found[-1].proximal) == (1, True)


def test_no_action_but_sharing_is_taken_where_none_is_allowed() -> None:
    none = replace(LIMITS, cool_down=0, most=0)
    assert course([[severe("robust-overfitting")]] * 3, none)[1] == [(1, "none")]
    assert course([[severe("divergence")]], none)[1] == [(1, "none")]
    assert [name for _, name in course([[severe("client-drift")]] * 5, none)[1]] == ["share-more", "share-more", "none"]


def test_other_clients_do_not_make_a_bad_model_a_good_one() -> None:
    def line(number: int, natural: float, *actions: str) -> dict[str, object]:
        repairs = {"repairs": [{"action": action} for action in actions]} if actions else {}
        return {"round": number, "loss": 1.0, "signals": {"natural": natural}, **repairs}

    for action, good in (("quarantine", False), ("probation", False), ("none", False), ("roll-back", True)):
        assert is_good([line(1, 0.8), line(2, 0.8, action), line(3, 0.2)]) == good


def test_of_two_troubles_the_worse_is_treated_first_and_the_other_after_the_cool_down() -> None:
    both = [severe("lost-class"), severe("collapse")]
    assert course([both, both, both, [severe("lost-class")], [severe("lost-class")]])[1] == [
        (1, "roll-back"),
        (5, "share-more"),
    ]


def test_a_client_that_harms_is_set_aside_returns_and_stays_away_twice_as_long() -> None:
    named = [severe("harmful-client", 4)]
    found, actions = course([named] * 15)
    # Away in rounds 2 to 4. It is judged by its next three rounds, so not before the end of round 7; away in 8 to 13.
    assert actions == [(1, "quarantine"), (4, "probation"), (7, "quarantine"), (13, "probation")]
    away = [number + 1 for number, each in enumerate(found, 1) if each.set_aside(number + 1)]
    assert away == [2, 3, 4, *range(8, 14)]


def test_no_more_clients_are_set_aside_than_may_be_missing() -> None:
    found, _ = course([[severe("harmful-client", 1, 5, 7)]])
    assert found[0].set_aside(2) == {1, 5}
    assert course([[severe("harmful-client", 1)]], replace(LIMITS, quarantine=0))[1] == []


def test_quarantine_does_not_wait_for_the_cool_down() -> None:
    assert course([[severe("divergence")], [severe("divergence"), severe("harmful-client", 3)]])[1] == [
        (1, "roll-back"),
        (2, "quarantine"),
    ]


def test_an_action_says_what_and_why() -> None:
    _, done = treat(Treatment(), 3, [severe("divergence")], LIMITS)
    assert done == [
        Action("roll-back", "divergence", "go back to the last good model, and train at 0.5 of the learning rate: seen")
    ]


def test_a_good_model_from_a_file_has_its_arrays_in_the_order_of_the_network() -> None:
    repair = RoundRepair(tiny_config(repair__enabled=True), [], {"a": torch.ones(1), "b": torch.ones(1)})
    repair.treatment = Treatment(back=True)
    assert [*repair.start_from({"b": torch.zeros(1), "a": torch.zeros(1)})] == ["b", "a"]
