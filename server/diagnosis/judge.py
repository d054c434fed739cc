"""From the lines of a run to its diagnoses: the same during the run, when it is resumed, and when it is over."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from server.diagnosis.catastrophic_overfitting import CatastrophicOverfitting
from server.diagnosis.client_drift import ClientDrift
from server.diagnosis.collapse import Collapse
from server.diagnosis.diagnosis import SEVERE, About, Diagnosis, Line, Lines, Trouble
from server.diagnosis.divergence import Divergence
from server.diagnosis.harmful_client import HarmfulClient
from server.diagnosis.lost_class import LostClass
from server.diagnosis.masked_gradients import MaskedGradients
from server.diagnosis.robust_overfitting import RobustOverfitting

TROUBLES: tuple[Trouble, ...] = (
    CatastrophicOverfitting(),
    RobustOverfitting(),
    ClientDrift(),
    Divergence(),
    Collapse(),
    MaskedGradients(),
    HarmfulClient(),
    LostClass(),
)
_CLEAN = 2  # rounds without a trouble, after which it is over


def diagnose(lines: Lines, about: About, before: Iterable[Diagnosis] = (), first: int = 1) -> list[Diagnosis]:
    """Return the troubles of a run after the latest of its lines.

    Nothing else decides them, so that a run that is resumed or judged again has the same.

    Args:
        lines: of ``metrics.jsonl`` up to now, in their order, one or more; only numbers of the replies and ``signals``
            are read.
        about: the run.
        before: what this function returned after the line before.
        first: rounds before this one are not looked at: the training that they tell of has been given up. Only a
            divergence that is not over yet is judged by all lines: the lowest loss was that of a good model, and the
            run has to come back to it.
    """
    seen = [line for line in lines if line["round"] >= first] or [lines[-1]]  # of a file that is out of order
    known = {diagnosis.name: diagnosis for diagnosis in before}
    found = [
        _goes_on(trouble, was, lines if was and trouble.name == Divergence.name else seen, about)
        for trouble in TROUBLES
        for was in [known.get(trouble.name)]
    ]
    return [diagnosis for diagnosis in found if diagnosis is not None]


def _goes_on(trouble: Trouble, was: Diagnosis | None, lines: Lines, about: About) -> Diagnosis | None:
    """Return what a trouble is now: it begins at once, and ends after two rounds in which it is not seen."""
    if (seen := trouble.judge(lines, about)) is None:
        return replace(was, clean=was.clean + 1) if was is not None and was.clean + 1 < _CLEAN else None
    since = lines[-1]["round"] if was is None else was.since
    severity = SEVERE if was is not None and was.severity == SEVERE else seen.severity
    return Diagnosis(trouble.name, severity, seen.evidence, since, 0, seen.clients)


def suspects(diagnoses: Iterable[Diagnosis]) -> frozenset[int]:
    """Return the clients that harm, by the severe diagnoses among these."""
    return frozenset(
        client
        for diagnosis in diagnoses
        if diagnosis.name == HarmfulClient.name and diagnosis.severity == SEVERE
        for client in diagnosis.clients
    )


def stored(line: Line) -> list[Diagnosis]:
    """Return the diagnoses that a line of ``metrics.jsonl`` has."""
    return [Diagnosis.from_json(each) for each in line.get("diagnoses", ())]


def changes(before: Sequence[Diagnosis], now: Sequence[Diagnosis]) -> list[tuple[str, Diagnosis]]:
    """Return what is worth a line: a trouble that ``begins``, ``is severe now`` or ``is over``, each with its kind."""
    known, present = ({diagnosis.name: diagnosis for diagnosis in each} for each in (before, now))
    told = [("begins", each) for each in now if each.name not in known]
    told += [
        ("is severe now", each)
        for each in now
        if each.severity == SEVERE and each.name in known and known[each.name].severity != SEVERE
    ]
    return told + [("is over", each) for each in before if each.name not in present]
