"""Repairs a run while it goes on: what the strategy and the Recorder ask in each round."""

import logging
from collections.abc import Sequence

from common.config.flat import Flat
from common.config.schema import RunConfig
from common.config.tables import TrainConfig
from common.messages.records import State
from server.diagnosis.collapse import says_one_class
from server.diagnosis.diagnosis import Diagnosis, Line, Lines, signal
from server.diagnosis.divergence import lowest_loss
from server.diagnosis.judge import stored
from server.repair.remedies import STUCK, UNSETTLING
from server.repair.treat import PROBATION, QUARANTINE, treat
from server.repair.treatment import Action, Limits, Treatment

log = logging.getLogger("fedshield")

_LEAST, _MOST = 0.75, 1.5  # of the best accuracy, and of the lowest loss


def limits_of(config: RunConfig) -> Limits:
    """Return what a run begins with, and how far repair may go from there."""
    repair, federation = config.repair, config.federation
    longer = config.attack.name in {"fgsm", "pgd", "bim"} and config.attack.epsilon_255 > 0
    return Limits(
        cool_down=repair.cool_down,
        most=repair.max_actions,
        rate_factor=repair.rate_factor,
        steps=(1 if config.attack.name == "fgsm" else config.attack.steps) if longer else 0,
        attack_steps=repair.attack_steps,
        epochs=config.train.local_epochs,
        sharing=config.sharing.fraction,
        sharing_step=repair.sharing_step,
        sharing_budget=repair.sharing_budget,
        proximal=repair.proximal if config.method.name == "fedavg" else 0.0,
        quarantine=repair.quarantine,
        spare=federation.cohort - federation.min_replies,
    )


class RoundRepair:
    """What a run with ``repair.enabled`` does differently from round to round.

    All that it decides is a function of the diagnoses in ``metrics.jsonl``, so that a resumed run decides the same.

    Args:
        config: of the run.
        lines: of ``metrics.jsonl`` so far.
        good: the last good model, if it is another than the run's present one.

    Attributes:
        treatment: of the next round.
    """

    def __init__(self, config: RunConfig, lines: Lines, good: State | None = None) -> None:
        self._config, self._limits = config, limits_of(config)
        self.treatment = treatment_after(lines, self._limits)
        self._lines = [*lines]
        self._good, self._actions = good, list[Action]()

    def begin(self, state: State) -> None:
        """Take the model that the run begins with: the last good one until a round has shown a better."""
        if self._good is None:
            self._good = {name: array.clone() for name, array in state.items()}

    def after_round(self, line: Line, diagnoses: Sequence[Diagnosis], state: State) -> list[dict[str, str]]:
        """Decide what to do, and return it for the round's line.

        Args:
            line: of the finished round, with its signals.
            diagnoses: after it.
            state: the model after it; nobody changes it.
        """
        self._lines.append(line)
        if is_good(self._lines) and not any(each.name in UNSETTLING for each in diagnoses):
            self._good = state
        self.treatment, self._actions = treat_line(self.treatment, line, diagnoses, self._limits)
        return [action.as_json() for action in self._actions]

    def tell(self, number: int) -> None:
        """Log what is done after a round, a line each; after the last one only what a longer run would begin with."""
        for action in self._actions:
            if number < self._config.federation.rounds or action.name == STUCK:
                log.warning("repair: after round %d, against %s: %s", number, action.trouble, action.told)
            else:
                log.info(
                    "repair: round %d is the last, so nothing is done against %s; with --resume and more rounds: %s",
                    *(number, action.trouble, action.told),
                )

    def start_from(self, state: State) -> State:
        """Return the model from which the next round starts, its arrays in the order of ``state``."""
        if not self.treatment.back or self._good is None:
            return state
        return {name: self._good[name] for name in state}  # a file does not keep their order

    def kept(self, state: State) -> State:
        """Return the last good model for the checkpoint; empty if it is the present one."""
        return {} if self._good is None or self._good is state else dict(self._good)

    def averaging(self) -> TrainConfig:
        """Return which models of the rounds to come are averaged, as a configuration would say it."""
        train, first = self._config.train, self.treatment.average
        return train.model_copy(update={"average": "ema", "average_start": first}) if first else train

    def changes(self) -> Flat:
        """Return the keys of the configuration that have another value in the next round."""
        treatment, config = self.treatment, self._config
        changes: Flat = {}
        if treatment.rate != 1:
            changes["train.learning-rate"] = config.train.learning_rate * treatment.rate
        if treatment.longer:
            step = min(config.attack.step_255, config.attack.epsilon_255 / 4)
            changes |= {"attack.name": "pgd", "attack.steps": self._limits.attack_steps, "attack.step-255": step}
        if treatment.epochs:
            changes["train.local-epochs"] = treatment.epochs
        if treatment.proximal:
            changes |= {"method.name": "fedprox", "method.prox-mu": self._limits.proximal}
        return changes


def is_good(lines: Lines) -> bool:
    """Return whether the model after the last of the rounds is worth going back to.

    A trouble is only named when it is sure, so the rounds just before it are no good either: the model must not say one
    class of all images, nor be far from the best held-out accuracy, or the lowest loss, since training was changed.
    """
    last = lines[-1]
    if "failed" in last or says_one_class(last):
        return False
    since = max((line["round"] for line in lines[:-1] if _trains_otherwise(line)), default=0)
    known = [line for line in lines if line["round"] > since and "failed" not in line]
    best, lowest = max(signal(line, "natural") for line in known), lowest_loss([line["loss"] for line in known])
    return bool(signal(last, "natural") >= _LEAST * best and (last["loss"] <= _MOST * lowest or lowest <= 0))


def _trains_otherwise(line: Line) -> bool:
    """Return whether the rounds after this one are trained in another way; other clients do not make one."""
    return any(action["action"] not in {QUARANTINE, PROBATION, STUCK} for action in line.get("repairs", ()))


def treatment_after(lines: Lines, limits: Limits) -> Treatment:
    """Return how a run goes on after its lines, by the diagnoses that they have."""
    treatment = Treatment()
    for line in lines:
        treatment, _ = treat_line(treatment, line, stored(line), limits)
    return treatment


def treat_line(
    treatment: Treatment, line: Line, diagnoses: Sequence[Diagnosis], limits: Limits
) -> tuple[Treatment, list[Action]]:
    """Return what ``treat`` returns after the round of a line."""
    return treat(treatment, int(line["round"]), diagnoses, limits, failed="failed" in line)
