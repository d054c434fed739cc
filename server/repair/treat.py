"""From the diagnoses of a round to what is done: a function of what the run has stored, the same when it is resumed."""

from collections.abc import Sequence
from dataclasses import replace

from server.diagnosis.diagnosis import SEVERE, Diagnosis
from server.diagnosis.harmful_client import HarmfulClient
from server.diagnosis.judge import suspects
from server.repair.remedies import REMEDIES, SHARE_MORE, STUCK
from server.repair.treatment import Action, Limits, Treatment

QUARANTINE, PROBATION = "quarantine", "probation"
_PROBATION = 3  # rounds of a client that has come back, after which it is judged by them alone


def treat(
    treatment: Treatment, number: int, diagnoses: Sequence[Diagnosis], limits: Limits, failed: bool = False
) -> tuple[Treatment, list[Action]]:
    """Return what the next round is trained with, and what is done for that.

    Only severe troubles that the round itself has shown are acted on, one a round, and none for some rounds after an
    action: so nothing goes to and fro. No action is ever taken back; a client that was set aside returns.

    Args:
        treatment: after the round before.
        number: of the finished round, from 1.
        diagnoses: after it.
        limits: of the run.
        failed: the round has no model: without an action the run is over, so nothing is waited for.
    """
    treatment = replace(treatment, back=False)
    treatment, actions = _quarantine(treatment, number, diagnoses, limits)
    if (number <= treatment.quiet_until and not failed) or treatment.end:
        return treatment, actions
    severe = {each.name: each for each in diagnoses if each.severity == SEVERE and each.clean == 0}
    for name in filter(severe.__contains__, REMEDIES):
        for remedy in REMEDIES[name]:
            if (done := remedy(treatment, limits, number)) is not None:
                changed, told = done
                action = next(act for act in changed.taken if changed.taken[act] != treatment.taken.get(act, 0))
                if action != SHARE_MORE and changed.taken[action] > limits.most:  # the budget limits what is shared
                    continue
                changed = replace(changed, quiet_until=number + limits.cool_down)
                return changed, [*actions, Action(action, name, f"{told}: {severe[name].evidence}")]
        if name not in treatment.stuck:
            treatment = replace(treatment, stuck=treatment.stuck | {name})
            actions.append(Action(STUCK, name, f"nothing is left to do: {severe[name].evidence}"))
    return treatment, actions


def _quarantine(
    treatment: Treatment, number: int, diagnoses: Sequence[Diagnosis], limits: Limits
) -> tuple[Treatment, list[Action]]:
    """Set clients that harm aside for some rounds; who is named again after the probation, for twice as many."""
    evidence = next((each.evidence for each in diagnoses if each.name == HarmfulClient.name), "")
    absent = set(treatment.set_aside(number + 1))
    away, terms, actions = dict(treatment.away), dict(treatment.terms), []
    for client in sorted(client for client, last in away.items() if last == number):
        actions.append(Action(PROBATION, HarmfulClient.name, f"client {client} trains again"))
    judged = {client for client, last in away.items() if number < last + _PROBATION}
    for client in sorted(suspects(each for each in diagnoses if each.clean == 0) - judged):
        if not limits.quarantine or len(absent) >= limits.spare:
            break
        rounds = limits.quarantine * 2 ** terms.get(client, 0)
        absent.add(client)
        away[client], terms[client] = number + rounds, terms.get(client, 0) + 1
        told = f"client {client} does not train in rounds {number + 1} to {number + rounds}: {evidence}"
        actions.append(Action(QUARANTINE, HarmfulClient.name, told))
    return replace(treatment, away=away, terms=terms), actions
