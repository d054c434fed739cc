"""What has been done to a run so far, and how far it may go."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True)
class Limits:
    """What a run begins with, and how far repair may go from there.

    Attributes:
        cool_down: rounds after an action in which there is no other; setting clients aside is not counted.
        most: how often each action is taken at most.
        rate_factor: by which the learning rate is multiplied, in (0, 1).
        steps: of the training attack that ``attack_steps`` replaces; 0 where there is none to be made longer.
        attack_steps: of the attack that is trained with after catastrophic overfitting.
        epochs: local epochs of a client in a round.
        sharing: share of the pool that the clients receive.
        sharing_step: by which this share grows.
        sharing_budget: the largest share; at most ``sharing`` where it may not grow.
        proximal: weight of the proximal term; 0 for none.
        quarantine: rounds for which a client is set aside; 0 for never.
        spare: clients that may be set aside at the same time.
    """

    cool_down: int
    most: int
    rate_factor: float
    steps: int
    attack_steps: int
    epochs: int
    sharing: float
    sharing_step: float
    sharing_budget: float
    proximal: float
    quarantine: int
    spare: int


@dataclass(frozen=True)
class Treatment:
    """What a run is trained with in its next round, other than configured. Nothing of it is stored: see ``treat``.

    Attributes:
        rate: factor on the learning rate, in (0, 1].
        longer: whether the training attack has the steps of ``Limits.attack_steps``.
        epochs: local epochs; 0 as configured.
        sharing: share of the pool that clients receive; 0 as configured.
        proximal: whether clients are held near the global model.
        average: the first round whose model counts in a running mean of the models; 0 for no mean.
        away: the last round for which a client is set aside, by its number; also of rounds that are over.
        terms: how often each of these clients has been set aside.
        taken: how often each action has been taken.
        quiet_until: last round after which there is no other action.
        first: rounds before this one tell of training that has been given up.
        back: whether the next round starts from the last good model.
        end: whether training ends here.
        stuck: troubles against which nothing is left to do.
    """

    rate: float = 1.0
    longer: bool = False
    epochs: int = 0
    sharing: float = 0.0
    proximal: bool = False
    average: int = 0
    away: Mapping[int, int] = field(default_factory=dict)
    terms: Mapping[int, int] = field(default_factory=dict)
    taken: Mapping[str, int] = field(default_factory=dict)
    quiet_until: int = 0
    first: int = 1
    back: bool = False
    end: bool = False
    stuck: frozenset[str] = frozenset()

    def counted(self, action: str, **changes: Any) -> Self:
        """Return this after one more of an action, with what it changes."""
        return replace(self, taken={**self.taken, action: self.taken.get(action, 0) + 1}, **changes)

    def set_aside(self, server_round: int) -> frozenset[int]:
        """Return the clients that do not train in a round."""
        return frozenset(client for client, last in self.away.items() if server_round <= last)


@dataclass(frozen=True)
class Action:
    """One thing that is done.

    Attributes:
        name: in files and reports.
        trouble: name of what it is done against.
        told: a sentence: what, with its numbers.
    """

    name: str
    trouble: str
    told: str

    def as_json(self) -> dict[str, str]:
        """Return what goes into ``metrics.jsonl``."""
        return {"action": self.name, "trouble": self.trouble, "told": self.told}
