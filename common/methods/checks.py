"""What a method gives is checked where it gives it: a user's own can give anything."""

import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from common.errors import DeadEndError
from common.methods.method import Arrays, Method, Turn
from common.methods.personal import RESERVED
from common.models.external import TYPES
from common.training.pull import LinearPull, Pull
from common.training.trainer import FitResult, TrainingPlan
from common.user_code import explain_user_code, is_user_code

HOOKS = (
    "check",
    "passes",
    "stays",
    "before",
    "loss",
    "pull",
    "train",
    "after",
    "beside_names",
    "sends",
    "shares",
    "combine",
)


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


def own_copies(method: Method, arrays: Arrays) -> Arrays:
    """Return arrays that a method is not to change: copies for a user's own, which might."""
    return {name: array.clone() for name, array in arrays.items()} if is_user_code(method.name) else arrays


def check_prepared(method: Method, turn: Turn, model: nn.Module) -> None:
    """Check what ``before`` has left: a plan, and the process's model, which it may change but not replace.

    Args:
        method: of the federation.
        turn: of the client.
        model: which is trained.

    Raises:
        FedShieldError: one line that says what is wrong with it.
    """
    if turn.model is not model:
        raise _wrong(method.name, "before replaces turn.model; change its weights in place, by load_state_dict")
    if not isinstance(turn.plan, TrainingPlan):
        raise _wrong(method.name, f"before sets turn.plan to {type(turn.plan).__name__}; use dataclasses.replace on it")


def check_plan(method: Method, plan: object, turn: Turn) -> TrainingPlan:
    """Return how to train, once that is possible.

    Args:
        method: of the federation.
        plan: what is given to ``fit``.
        turn: of the client.

    Raises:
        FedShieldError: one line that says what is wrong with it.
    """
    if not isinstance(plan, TrainingPlan):
        raise _wrong(method.name, f"trains by {type(plan).__name__}; use dataclasses.replace on turn.plan")
    for name, least in (("epochs", 0), ("batch_size", 1)):
        if not isinstance(number := getattr(plan, name), int) or number < least:
            raise _wrong(method.name, f"trains with {name} = {number!r}; set a whole number, {least} or more")
    if plan.frozen.issuperset(turn.weights):
        raise _wrong(method.name, "trains with every weight in frozen; leave one out")
    return plan


def check_pull(method: Method, pull: object, turn: Turn) -> Pull | LinearPull | None:
    """Return what corrects the gradients, once its arrays have the shapes of the weights; a function is checked later.

    Args:
        method: of the federation.
        pull: what ``pull`` has returned.
        turn: of the client.

    Raises:
        FedShieldError: one line that says what is wrong with it.
    """
    if isinstance(pull, LinearPull):
        for part in (pull.anchor, pull.offset):
            for name in turn.weights:
                if name in part and part[name].shape != (shape := turn.received[name].shape):
                    raise _wrong(
                        method.name, f"pull gives {name} as {tuple(part[name].shape)}, expected {tuple(shape)}"
                    )
        return pull
    if pull is None:
        return None
    if not callable(pull):
        raise _wrong(method.name, f"pull returns {type(pull).__name__}; return a function, a LinearPull or None")

    def checked(names: Sequence[str], weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        given = list(pull(names, weights, gradients))
        found = [getattr(gradient, "shape", None) for gradient in given]
        if found != [turn.received[name].shape for name in names]:
            raise _wrong(method.name, "the function of pull gives other gradients than one of each weight's shape")
        return given

    return checked


def names_that_stay(method: Method, model: nn.Module) -> frozenset[str]:
    """Return the names of the arrays that never leave a client.

    Args:
        method: of the federation.
        model: its network.

    Raises:
        FedShieldError: the network has no such array, or the method does not say that it has personal models.
    """
    names = frozenset(_names(method, "stays", method.stays(model), model.state_dict()))
    if names and not (method.personal and method.keeps):
        raise _wrong(method.name, "stays names arrays; set keeps = True and personal = True")
    return names


def names_beside(method: Method, names: Collection[str], weights: Collection[str]) -> list[str]:
    """Return the names of what clients send beside their weights, once the network has such arrays.

    Args:
        method: of the federation.
        names: of all arrays of the model.
        weights: of those that are trained.

    Raises:
        FedShieldError: one line that says what is wrong with them.
    """
    return _names(method, "beside_names", method.beside_names(names, weights), names)


def _names(method: Method, hook: str, given: object, known: Collection[str]) -> list[str]:
    if given is None:
        return []
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise _wrong(method.name, f"{hook} returns {given!r}; return a list of names")
    names = [*map(str, given)]
    if odd := sorted({*names}.difference(known)):
        raise _wrong(method.name, f"{hook} names {odd[0]}, which the network does not have")
    return names


def check_trained(method: Method, done: object) -> FitResult:
    """Return what ``train`` has returned, once it is what ``fit`` returns.

    Args:
        method: of the federation.
        done: what it has returned.

    Raises:
        FedShieldError: it is something else.
    """
    if not isinstance(done, FitResult):
        raise _wrong(method.name, f"train returns {type(done).__name__}; return what fit returns")
    return done


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
        names = names_beside(method, turn.received, turn.weights)
        check_arrays(method.name, "after", beside, {name: turn.received[name] for name in names})
    elif beside:
        raise _wrong(method.name, "after returns arrays, but replies_beside is False; set it to True, or return {}")
    if method.keeps:
        check_arrays(method.name, "turn.kept", turn.kept)
        if odd := [place for place in turn.kept if place.startswith(RESERVED)]:
            raise _wrong(method.name, f"turn.kept has {odd[0]}; choose names that do not begin with own/ or tuned/")
    elif turn.kept:
        raise _wrong(method.name, "turn.kept is filled, but keeps is False; set it to True")
    if method.personal:
        check_arrays(method.name, "turn.own", turn.own)
        network = {name: array for name, array in turn.received.items() if name in turn.own}
        check_arrays(method.name, "turn.own", turn.own, network)
    elif turn.own:
        raise _wrong(method.name, "turn.own is filled, but personal is False; set it and keeps to True")


def check_shares(name: str, shares: Sequence[float], replies: int) -> list[float]:
    """Return how much each reply counts, once these are numbers of 0 or more, and not all 0.

    Args:
        name: of the method.
        shares: what ``shares`` has returned.
        replies: how many there are.

    Raises:
        FedShieldError: one line that says what is wrong with them.
    """
    try:
        found = [float(share) for share in shares]
    except (TypeError, ValueError):
        raise _wrong(name, f"shares returns {shares!r}; return {replies} numbers of 0 or more, not all 0") from None
    if len(found) != replies or not all(math.isfinite(share) and share >= 0 for share in found) or not sum(found):
        raise _wrong(name, f"shares returns {found}; return {replies} numbers of 0 or more, not all 0")
    return found


def check_arrays(
    name: str, hook: str, arrays: object, like: Mapping[str, Tensor] | None = None, key: str = "method.name"
) -> None:
    """Check what a hook gives: finite tensors, with these names, shapes and types.

    Args:
        name: of the method.
        hook: of it.
        arrays: what it has returned.
        like: arrays of the names, shapes and types; None if any will do.
        key: of the configuration that names it.

    Raises:
        FedShieldError: one line that says what is wrong with them.
    """
    if not isinstance(arrays, Mapping) or not all(
        isinstance(place, str) and isinstance(array, Tensor) for place, array in arrays.items()
    ):
        raise _wrong(name, f"{hook} gives no dictionary of tensors by name", key)
    if like is not None and (odd := sorted(set(arrays) ^ set(like))):
        raise _wrong(name, f"{hook} gives other arrays than it must, first at {odd[0]}", key)
    for place, array in arrays.items():
        if array.layout != torch.strided or array.dtype not in TYPES:
            what = array.dtype if array.layout == torch.strided else array.layout
            raise _wrong(name, f"{hook} gives {place} as {what}, which no message carries; give a dense float32", key)
        expected = array if like is None else like[place]
        if array.shape != expected.shape or array.dtype != expected.dtype:
            raise _wrong(
                name,
                f"{hook} gives {place} as {array.dtype} {tuple(array.shape)}, expected {expected.dtype} "
                f"{tuple(expected.shape)}",
                key,
            )
        if not array.isfinite().all():
            raise _wrong(name, f"{hook} gives {place} with values that are not finite", key)


def _wrong(name: str, what: str, key: str = "method.name") -> DeadEndError:
    return DeadEndError(f"{key} = {name}: {what}")
