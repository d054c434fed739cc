"""Settings that a server may change from round to round, to repair a run; see ``server.repair``.

A client takes them only where they make its work smaller, or its attack longer within a limit: a server that asks for
anything else is refused.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from common.config.flat import Flat
from common.errors import FedShieldError

_MOST_STEPS: Final = 100  # of the training attack; the cost of a step grows with it


def changed(run_config: Flat, changes: Mapping[str, Any]) -> Flat:
    """Return the configuration of one round.

    Args:
        run_config: flat, of the run.
        changes: keys and their values in this round; may be empty.

    Raises:
        FedShieldError: the server asks for a change that this client does not take; one line with key and value.
    """
    for key, value in changes.items():
        allowed = _TAKEN.get(key)
        if allowed is None or isinstance(value, bool) or not allowed(value, run_config.get(key)):
            raise FedShieldError(
                f"the server asks for {key} = {value!r} in this round, where the run has {run_config.get(key)!r}: this "
                "client does not take such a change"
            )
    return {**run_config, **changes}


def _is_lower(value: Any, own: Any) -> bool:
    return isinstance(value, float) and 0 < value <= float(own)


_TAKEN: Mapping[str, Callable[[Any, Any], bool]] = {
    "train.learning-rate": _is_lower,
    "train.local-epochs": lambda value, own: isinstance(value, int) and 1 <= value <= own,
    "attack.name": lambda value, own: value == "pgd",
    "attack.steps": lambda value, own: isinstance(value, int) and 1 <= value <= max(own, _MOST_STEPS),
    "attack.step-255": _is_lower,
    "method.name": lambda value, own: value == "fedprox" and own in {"fedavg", "fedprox"},
    "method.prox-mu": lambda value, own: isinstance(value, float) and 0 < value < math.inf,
}
