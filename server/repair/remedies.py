"""The actions against each trouble, in the order in which they are tried."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from server.diagnosis.catastrophic_overfitting import CatastrophicOverfitting
from server.diagnosis.client_drift import ClientDrift
from server.diagnosis.collapse import Collapse
from server.diagnosis.divergence import Divergence
from server.diagnosis.lost_class import LostClass
from server.diagnosis.robust_overfitting import RobustOverfitting
from server.repair.treatment import Limits, Treatment

Done = tuple[Treatment, str]
Remedy = Callable[[Treatment, Limits, int], Done | None]
"""(treatment so far, limits, finished round) -> the treatment with it and a sentence; None if it cannot be had."""

_LOWEST = 1e-6  # of the learning rate: what is not mended by then is not mended by a lower one
ROLL_BACK, LOWER_RATE, AVERAGE, END, STUCK = "roll-back", "lower-rate", "average", "end", "none"
SHARE_MORE, FEWER_EPOCHS, PROXIMAL = "share-more", "fewer-epochs", "proximal-term"


def roll_back(treatment: Treatment, limits: Limits, number: int) -> Done | None:
    """Go on from the last good model, with a smaller learning rate."""
    if treatment.rate < _LOWEST:
        return None
    # A rate that is far too high costs some rounds each time, so it falls faster and faster.
    rate = treatment.rate * limits.rate_factor ** (1 + treatment.taken.get(ROLL_BACK, 0))
    # The models up to here are given up, so none of them stays in a mean.
    anew = number + 1 if treatment.average else 0
    back = treatment.counted(ROLL_BACK, rate=rate, back=True, first=number + 1, average=anew)
    return back, f"go back to the last good model, and train at {rate:.3g} of the learning rate"


def longer_attack(treatment: Treatment, limits: Limits, number: int) -> Done | None:
    """Go on from the last good model, with a training attack of several small steps (Wong et al. 2020, 2001.03994)."""
    if treatment.longer or not 0 < limits.steps < limits.attack_steps:
        return roll_back(treatment, limits, number)
    if (done := roll_back(treatment, limits, number)) is None:
        return None
    return replace(
        done[0], longer=True
    ), f"{done[1]}, by a training attack of {limits.attack_steps} steps in place of {limits.steps}"


def lower_rate(treatment: Treatment, limits: Limits, number: int) -> Done | None:
    """Lower the learning rate once; robust overfitting goes with learning too much too late (Rice et al. 2020)."""
    if LOWER_RATE in treatment.taken:
        return None
    rate = treatment.rate * limits.rate_factor
    return treatment.counted(LOWER_RATE, rate=rate), f"train at {rate:.3g} of the learning rate"


def average(treatment: Treatment, limits: Limits, number: int) -> Done | None:
    """Take the running mean of the models (Gowal et al. 2020, 2010.03593), from which training does not go on."""
    if treatment.average:
        return None
    told = "from here on, take the running mean of the models (ema)"
    return treatment.counted(AVERAGE, average=number + 1), told


def end(treatment: Treatment, limits: Limits, number: int) -> Done | None:
    """End training; the best model on validation images is what stays."""
    return treatment.counted(END, end=True), "end training here"


def share_more(treatment: Treatment, limits: Limits, number: int) -> Done | None:
    """Send the clients more of the pool (Zhao et al. 2018, 1806.00582), within the budget."""
    now = treatment.sharing or limits.sharing
    share = min(now + limits.sharing_step, limits.sharing_budget)
    if share <= now + 1e-9:
        return None
    share = round(share, 6)
    return treatment.counted(SHARE_MORE, sharing=share), f"send the clients {100 * share:.3g} % of the pool"


def fewer_epochs(treatment: Treatment, limits: Limits, number: int) -> Done | None:
    """Let clients train for half as long before they are averaged."""
    now = treatment.epochs or limits.epochs
    if now == 1:
        return None
    epochs = max(1, now // 2)
    return treatment.counted(FEWER_EPOCHS, epochs=epochs), f"{epochs} local epochs in place of {now}"


def proximal_term(treatment: Treatment, limits: Limits, number: int) -> Done | None:
    """Hold the clients near the global model (FedProx, Li et al. 2020, 1812.06127)."""
    if treatment.proximal or limits.proximal == 0:
        return None
    told = f"add a proximal term to the clients' loss, mu = {limits.proximal:g}"
    return treatment.counted(PROXIMAL, proximal=True), told


REMEDIES: Mapping[str, tuple[Remedy, ...]] = {
    CatastrophicOverfitting.name: (longer_attack,),
    Divergence.name: (roll_back,),
    Collapse.name: (roll_back,),
    RobustOverfitting.name: (lower_rate, average, end),
    LostClass.name: (share_more, fewer_epochs, proximal_term),
    ClientDrift.name: (share_more, fewer_epochs, proximal_term),
}
"""By trouble; those before come first."""

AT_ONCE = frozenset({END, STUCK})
"""Actions that need no round after them."""

UNSETTLING = frozenset(name for name, (first, *_) in REMEDIES.items() if first in {roll_back, longer_attack})
"""Troubles after which a model is no good start any more."""
