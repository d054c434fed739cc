"""Each trouble by lines made by hand: where it is seen, and where something healthy looks like it."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from common.messages.records import to_record
from server.aggregation.directions import Directions
from server.diagnosis.diagnosis import About, Diagnosis
from server.diagnosis.judge import TROUBLES, changes, diagnose, suspects

ABOUT = About(rates=(0.1,) * 20, adversarial=True, training="pgd-3", by_class=(100,) * 9 + (10,))
Line = dict[str, Any]


def line(number: int, loss: float | None = 1.0, norm: float = 1.0, **signals: Any) -> Line:
    """A line of a healthy round; ``signals`` differ from that."""
    healthy = {
        "n": 100,
        "natural": 0.6,
        "fgsm": 0.42,
        "pgd": 0.38,
        "training-attack": 0.41,
        "class-examples": [10] * 10,
        "class-natural": [6] * 10,
        "class-pgd": [4] * 10,
        "most-predicted": {"class": 3, "share": 0.2, "true-share": 0.1},
        "gradients": {
            **{"correct": 60, "zero": 0, "one-step": [1, 5], "large-budget": 0, "chance": 0.1, "logit-gap": 2.0}
        },
        "cosines": {str(client): 0.3 + 0.01 * client for client in range(10)},
        "dispersion": 3.0,
    }
    clients = {str(client): {"loss": loss, "seconds": 1.0, "update-norm": norm} for client in range(10)}
    beside = {"clients": clients, "refused": {}, "distrusted": []}
    return {"round": number, "loss": loss, "update-norm": norm, **beside, "signals": {**healthy, **signals}}


def healthy(count: int) -> list[Line]:
    return [line(number) for number in range(1, count + 1)]


def names(lines: list[Line], about: About = ABOUT) -> dict[str, str]:
    return {found.name: found.severity for found in diagnose(lines, about)}


def with_gradients(**checks: Any) -> Line:
    return {**line(1)["signals"]["gradients"], **checks}


def test_a_healthy_run_has_no_trouble() -> None:
    assert len(TROUBLES) == 8
    assert all(names(healthy(count)) == {} for count in range(1, 13))


@pytest.mark.parametrize(
    ("trained", "pgd", "found"),
    [
        (0.60, 0.05, "severe"),
        (0.60, 0.30, "severe"),
        (0.40, 0.25, "mild"),  # the gap was 3 points in the rounds before
        (0.60, 0.45, None),  # more than two thirds are left
        (0.12, 0.00, None),  # a jump of less than 12 points
    ],
)
def test_catastrophic_overfitting(trained: float, pgd: float, found: str | None) -> None:
    lines = [*healthy(4), line(5, **{"training-attack": trained, "pgd": pgd})]
    assert names(lines).get("catastrophic-overfitting") == found


def test_training_without_attacks_has_gaps_of_its_own() -> None:
    natural = About(rates=(0.1,), adversarial=False)
    lines = [line(number, fgsm=0.5, pgd=0.0, **{"class-pgd": [0] * 10}) for number in range(1, 10)]
    assert names(lines, natural) == {}


def falling(*accuracies: float, losses: float = -0.05) -> list[Line]:
    return [
        line(number, loss=1.0 + losses * number, pgd=pgd, **{"training-attack": pgd + 0.03, "class-pgd": [4] * 10})
        for number, pgd in enumerate(accuracies, 1)
    ]


def test_robust_overfitting_needs_several_rounds_and_a_falling_loss() -> None:
    rise = (0.20, 0.30, 0.40, 0.40, 0.40)
    assert names(falling(*rise, 0.36, 0.34, 0.32, 0.31, 0.30)) == {"robust-overfitting": "mild"}
    assert names(falling(*rise, 0.36, 0.32, 0.28, 0.26, 0.24)) == {"robust-overfitting": "severe"}
    low = (0.10, 0.16, 0.18, 0.17, 0.16, 0.14, 0.12)
    assert names(falling(*low, 0.11, 0.10, 0.10)) == {"robust-overfitting": "mild"}  # from 17.0 % to 10.3 %
    assert names(falling(*low, 0.11, 0.09, 0.08)) == {"robust-overfitting": "severe"}  # to 9.3 %, 55 % of it
    assert names(falling(*rise, 0.36, 0.32)) == {}
    assert names(falling(*rise, 0.36, 0.32, 0.28, 0.26, 0.24, losses=0.0)) == {}
    assert names(falling(*rise, 0.20, 0.41, 0.40, 0.40, 0.28)) == {}  # two bad rounds


def test_client_drift_needs_discord_and_forgetting_and_is_severe_where_the_model_gets_worse() -> None:
    def swinging(cosine: float, *natural: float) -> list[Line]:
        cosines = {str(client): cosine for client in range(10)}
        counts = ([9, 1] * 5, [1, 9] * 5)
        return [
            line(number, cosines=cosines, natural=value, **{"class-natural": counts[number % 2]})
            for number, value in enumerate(natural, 1)
        ]

    assert names(swinging(-0.1, 0.4, 0.5, 0.5, 0.5, 0.4, 0.4, 0.3)) == {"client-drift": "severe"}
    assert names(swinging(-0.4, 0.2, 0.2, 0.3, 0.3, 0.4, 0.3, 0.4)) == {"client-drift": "mild"}  # it still learns
    assert names(swinging(0.1, 0.4, 0.5, 0.5, 0.5, 0.4, 0.4, 0.3)) == {}
    one_class = [{"natural": 0.15, "class-natural": [0] * 5 + [10] + [0] * 4}] * 2  # nothing is kept for two rounds
    one_class[1] = {"natural": 0.15, "class-natural": [10] + [0] * 9}
    apart = {str(client): -0.1 for client in range(10)}
    stuck = [line(number, cosines=apart, **one_class[number % 2]) for number in range(1, 9)]
    assert (names(stuck[:7]), names(stuck)) == ({"client-drift": "mild"}, {"client-drift": "severe"})
    assert names([line(number, cosines=apart) for number in range(1, 8)]) == {}


@pytest.mark.parametrize(
    ("norm", "loss", "found"),
    [(5.0, 1.0, "mild"), (12.0, 1.0, "severe"), (3.0, 1.2, None), (1.0, float("nan"), "severe"), (1.0, 9.0, None)],
)
def test_divergence_in_one_round(norm: float, loss: float, found: str | None) -> None:
    assert names([*healthy(4), line(5, loss, norm)]).get("divergence") == found


def test_divergence_of_the_loss_and_no_alarm_by_a_schedule() -> None:
    assert names([*healthy(4), line(5, 1.6), line(6, 1.7)]) == {"divergence": "mild"}
    assert names([*healthy(4), line(5, 2.6), line(6, 2.7)]) == {"divergence": "severe"}
    by_heart = [line(number, loss) for number, loss in enumerate((1.0, 0.3, 0.02, 0.01, 0.06, 0.05), 1)]
    assert names(by_heart) == {}  # six times the lowest, and near zero all the same
    assert names([*by_heart, line(7, 0.26), line(8, 0.27)]) == {"divergence": "severe"}
    rising = About(rates=(0.01, 0.01, 0.01, 0.01, 0.1), adversarial=True, by_class=(100,) * 10)
    assert names([*healthy(4), line(5, 1.0, 10.0)], rising) == {}  # the rate is ten times as high


def test_divergence_is_not_over_as_long_as_a_repaired_run_is_not_back_at_its_loss() -> None:
    lines, before = [*healthy(4), line(5, 50.0), line(6, 60.0)], []
    before = diagnose(lines, ABOUT)
    assert [(each.name, each.clean) for each in before] == [("divergence", 0)]
    courses = {}
    for after in (70.0, 1.1):  # training from a good model again, from round 7 on, has or has not helped
        now, found = before, []
        for number in range(7, 11):
            seen = [*lines, *(line(late, after) for late in range(7, number + 1))]
            now = diagnose(seen, ABOUT, now, first=7)
            found.append([(each.severity, each.clean) for each in now])
        courses[after] = found
    assert courses == {70.0: [[("severe", 0)]] * 4, 1.1: [[("severe", 1)], [], [], []]}


def test_collapse() -> None:
    def most(share: float, true: float = 0.1) -> Line:
        return {"most-predicted": {"class": 0, "share": share, "true-share": true}}

    assert names([*healthy(3), line(4, **most(0.97))]) == {"collapse": "severe"}
    assert names([*healthy(3), line(4, **most(0.90))]) == {"collapse": "mild"}
    assert names([*healthy(2), line(3, **most(1.0))]) == {}  # it has just begun
    assert names([*healthy(3), line(4, **most(0.96, 0.95))]) == {}  # most images are of that class


@pytest.mark.parametrize(
    "checks", [{"zero": 30}, {"one-step": [20, 2]}, {"large-budget": 30}, {"logit-gap": 3e4}, {"logit-gap": 1e-5}]
)
def test_masked_gradients_in_two_rounds(checks: Line) -> None:
    bad = {"gradients": with_gradients(**checks)}
    assert names([*healthy(3), line(4, **bad)]) == {}
    assert names([*healthy(3), line(4, **bad), line(5, **bad)]) == {"masked-gradients": "severe"}


@pytest.mark.parametrize(
    "checks", [{"zero": 1}, {"zero": 9, "correct": 9}, {"one-step": [5, 4]}, {"large-budget": 12}, {"logit-gap": None}]
)
def test_gradients_that_are_only_unlucky(checks: Line) -> None:
    bad = {"gradients": with_gradients(**checks)}
    assert names([*healthy(3), line(4, **bad), line(5, **bad)]) == {}


def against(number: int, client: int, cosine: float = -0.4) -> Line:
    return line(number, cosines={**line(1)["signals"]["cosines"], str(client): cosine})


def test_a_client_that_pulls_against_the_others_is_named_after_its_second_time() -> None:
    lines = [*healthy(2), against(3, 7)]
    assert diagnose(lines, ABOUT) == []
    (found,) = diagnose([*lines, against(4, 7)], ABOUT)
    assert (found.name, found.severity, found.clients) == ("harmful-client", "severe", (7,))
    assert "client 7: cosine -0.14 with the others' updates, the median client's is 0.3" in found.evidence
    assert suspects([found]) == {7}
    assert names([*lines, line(4), line(5)]) == {}  # one round is an accident
    assert names([*lines, against(4, 7, cosine=0.0)]) == {}


def test_a_client_that_the_held_out_images_agree_with_is_no_liar() -> None:
    def odd(number: int, score: float) -> Line:
        given = against(number, 7)
        given["signals"]["pool-cosines"] = {str(client): score for client in range(10)}
        return given

    assert names([odd(number, 0.1) for number in range(1, 5)]) == {}
    assert names([odd(number, -0.1) for number in range(1, 5)]) == {"harmful-client": "severe"}


def test_clients_of_two_classes_that_agree_little_are_no_liars() -> None:
    wide = {str(client): value for client, value in enumerate(np.linspace(-0.3, 0.3, 10))}
    assert names([line(number, cosines=wide) for number in range(1, 6)]) == {}
    hostile = {str(client): -0.4 - 0.3 * (client == 4) for client in range(10)}  # all against all
    assert names([line(number, cosines=hostile) for number in range(1, 6)]) == {}


def test_a_client_that_is_refused_for_what_it_sent() -> None:
    def refused(number: int, clients: list[int], sent: bool = True) -> Line:
        given = line(number)
        for client in clients:
            del given["clients"][str(client)]
        reasons = {str(client): "its update is too long" for client in clients}
        return {**given, "refused": reasons, "distrusted": clients if sent else []}

    (found,) = diagnose([line(1), refused(2, [4]), refused(3, [4])], ABOUT)
    assert found.clients == (4,)
    assert names([line(1), refused(2, [4], sent=False), refused(3, [4], sent=False)]) == {}  # no reply in time
    assert names([line(1), refused(2, [*range(6)]), refused(3, [*range(6)])]) == {}  # more than half: no minority


def test_a_long_update_and_a_high_loss() -> None:
    def odd(number: int, key: str, value: float) -> Line:
        given = line(number)
        given["clients"]["2"][key] = value
        return given

    (found,) = diagnose([odd(1, "update-norm", 4.0), odd(2, "update-norm", 4.0)], ABOUT)
    assert (found.severity, found.clients) == ("severe", (2,))
    (found,) = diagnose([odd(number, "loss", 3.5) for number in (1, 2, 3)], ABOUT)
    assert (found.severity, found.clients) == ("mild", (2,))
    assert suspects([found]) == frozenset()


def test_a_lost_class() -> None:
    def last(rounds: int, **signals: Any) -> list[Line]:
        return [*healthy(9 - rounds), *(line(number, **signals) for number in range(10 - rounds, 10))]

    gone = {"class-natural": [6] * 9 + [0]}
    assert names(last(6, **gone)) == {"lost-class": "severe"}
    assert names(last(4, **gone)) == {"lost-class": "mild"}
    assert names(last(3, **gone)) == {}
    assert names(last(6, **gone)[:7]) == {}  # it has just begun
    weak = {"class-pgd": [4] * 9 + [0]}
    assert names(last(6, **weak)) == {"lost-class": "mild"}  # the last one is rare
    common = {"class-pgd": [0] + [4] * 9}
    assert names(last(6, **common)) == {}
    three = {"natural": 0.55, "class-natural": [9, 8, 0], "class-pgd": [4, 4, 0], "class-examples": [10] * 3}
    assert names([line(number, **three) for number in range(1, 10)]) == {"lost-class": "severe"}
    assert names([line(number, **{**three, "natural": 0.5}) for number in range(1, 10)]) == {}  # the others are no good
    few = {"class-natural": [6] * 9 + [0], "class-examples": [10] * 9 + [4]}
    assert names(last(6, **few)) == {}


def test_a_trouble_ends_after_two_clean_rounds_and_is_told_when_it_changes() -> None:
    collapsed = {"most-predicted": {"class": 0, "share": 0.9, "true-share": 0.1}}
    worse = {"most-predicted": {"class": 0, "share": 0.99, "true-share": 0.1}}
    lines = [*healthy(3), line(4, **collapsed), line(5), line(6, **worse), line(7), line(8), line(9)]
    rounds: list[list[Diagnosis]] = []
    for count in range(1, len(lines) + 1):
        rounds.append(diagnose(lines[:count], ABOUT, rounds[-1] if rounds else ()))
    kept = [[(each.severity, each.since, each.clean) for each in found] for found in rounds[3:]]
    assert kept == [[("mild", 4, 0)], [("mild", 4, 1)], [("severe", 4, 0)], [("severe", 4, 1)], [], []]
    told = [[what for what, _ in changes(*pair)] for pair in pairwise(rounds)]
    assert told == [[], [], ["begins"], [], ["is severe now"], [], ["is over"], []]


def test_a_diagnosis_survives_its_file() -> None:
    found = Diagnosis("harmful-client", "severe", "client 7: ...", 4, 1, (7,))
    assert Diagnosis.from_json(found.as_json()) == found


def test_rounds_that_were_given_up_are_not_looked_at() -> None:
    lines = [against(1, 7), against(2, 7), *(line(number) for number in range(3, 5))]
    assert [each.name for each in diagnose(lines[:2], ABOUT)] == ["harmful-client"]
    assert diagnose([*lines[:2], against(3, 7)], ABOUT, first=3) == []


def test_directions_by_hand() -> None:
    before = to_record({"w": torch.tensor([1.0, 1.0]), "count": torch.tensor(3)})
    compared = Directions(before, {"w"}, {"w": torch.tensor([2.0, 0.0])})
    for client, update in enumerate([(2.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, 0.0)]):
        compared.add(
            client, to_record({"w": torch.tensor([1.0, 1.0]) + torch.tensor(update), "count": torch.tensor(9)})
        )
    found = compared.report()
    # of client 0: the others' directions add up to (-1, 1); of client 1: to (0, 0); of client 2: to (1, 1)
    assert found["cosines"] == {"0": pytest.approx(-(0.5**0.5), abs=1e-6), "2": pytest.approx(-(0.5**0.5), abs=1e-6)}
    assert found["dispersion"] == pytest.approx((4 + 1 + 1) / 3 / (1 / 9 + 1 / 9))
    assert found["pool-cosines"] == pytest.approx({"0": 1, "1": 0, "2": -1})  # the one that has not moved is left out


def test_sketches_of_many_weights_keep_cosines() -> None:
    generator = torch.Generator().manual_seed(1)
    common, own = torch.randn(200_000, generator=generator), torch.randn(2, 200_000, generator=generator)
    before = to_record({"w": torch.zeros(150_000), "v": torch.zeros(50_000)})
    compared = Directions(before, {"w", "v"})
    for client in range(2):
        update = common + own[client]
        compared.add(client, to_record({"w": update[:150_000], "v": update[150_000:]}))
    exact = float(torch.cosine_similarity(common + own[0], common + own[1], dim=0))
    assert compared.report()["cosines"]["0"] == pytest.approx(exact, abs=0.06)


def refusing(number: int, *clients: int) -> Line:
    """A line of a round in which the replies of some clients were refused."""
    told = line(number)
    kept = {client: one for client, one in told["clients"].items() if int(client) not in clients}
    return {**told, "clients": kept, "refused": {str(one): "no number" for one in clients}, "distrusted": [*clients]}


def test_nobody_is_named_for_a_round_in_which_most_replies_were_refused() -> None:
    assert "harmful-client" in names([*healthy(4), refusing(5, 3), refusing(6, 3)])
    assert "harmful-client" not in names([*healthy(4), refusing(5, 3), refusing(6, *range(10))])


def test_lines_that_are_not_in_order_are_judged_without_an_error() -> None:
    assert diagnose([line(5), line(2)], ABOUT, first=4) == []


def test_the_evidence_of_a_round_without_a_model_is_no_longer_than_a_line() -> None:
    (found,) = diagnose([{**line(1), "failed": "client 1: no number; " * 1000}], ABOUT)
    assert found.name == "divergence"
    assert len(found.evidence) < 600
