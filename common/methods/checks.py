"""What a method gives is checked where it gives it: a user's own can give anything."""

import functools
import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from common.errors import DeadEndError
from common.methods.method import Arrays, Method, Turn
from common.user_code import explain_user_code, is_user_code

HOOKS = ("before", "loss", "pull", "after", "sends", "shares", "combine")


def explain_hooks(key: str, method: Method) -> None:
    """Let what a user's hooks raise be one line that names the place in the file; others stay as they are."""
    if not is_user_code(method.name):
        return
    for hook in HOOKS:
        own = getattr(method, hook)

        @functools.wraps(own)
        def explained(*given: object, own: object = own) -> object:
            with explain_user_code(key, method.name):
                return own(*given)  # type: ignore[operator]

        setattr(method, hook, explained)


def check_turn(method: Method, beside: Arrays, turn: Turn) -> None:
    """Check what a client sends beside its weights, an array for each of them or nothing, and what it keeps.

    Args:
        method: of the federation.
        beside: what ``after`` has returned.
        turn: of the client.

    Raises:
        FedShieldError: one line that says what is wrong with it.
    """
    if method.replies_beside:
        check_arrays(method.name, "after", beside, {name: turn.received[name] for name in turn.weights})
    elif beside:
        raise _wrong(method.name, "after returns arrays, but replies_beside is False; set it to True, or return {}")
    if method.keeps:
        check_arrays(method.name, "turn.kept", turn.kept)


def check_shares(name: str, shares: Sequence[float], replies: int) -> list[float]:
    """Return how much each reply counts, once these are numbers of 0 or more, and not all 0.

    Args:
        name: of the method.
        shares: what ``shares`` has returned.
        replies: how many there are.

    Raises:
        FedShieldError: one line that says what is wrong with them.
    """
    found = [float(share) for share in shares]
    if len(found) != replies or not all(math.isfinite(share) and share >= 0 for share in found) or not sum(found):
        raise _wrong(name, f"shares returns {found}; return {replies} numbers of 0 or more, not all 0")
    return found


def check_arrays(name: str, hook: str, arrays: object, like: Mapping[str, Tensor] | None = None) -> None:
    """Check what a hook gives: finite tensors, with these names, shapes and types.

    Args:
        name: of the method.
        hook: of it.
        arrays: what it has returned.
        like: arrays of the names, shapes and types; None if any will do.

    Raises:
        FedShieldError: one line that says what is wrong with them.
    """
    if not isinstance(arrays, Mapping) or not all(isinstance(array, Tensor) for array in arrays.values()):
        raise _wrong(name, f"{hook} gives no dictionary of tensors")
    if like is not None and (odd := sorted(set(map(str, arrays)) ^ set(like))):
        raise _wrong(name, f"{hook} gives other arrays than it must, first at {odd[0]}")
    for place, array in arrays.items():
        expected = array if like is None else like[place]
        if array.shape != expected.shape or array.dtype != expected.dtype:
            raise _wrong(
                name,
                f"{hook} gives {place} as {array.dtype} {tuple(array.shape)}, expected {expected.dtype} "
                f"{tuple(expected.shape)}",
            )
        if not array.isfinite().all():
            raise _wrong(name, f"{hook} gives {place} with values that are not finite")


def _wrong(name: str, what: str) -> DeadEndError:
    return DeadEndError(f"method.name = {name}: {what}")
