"""Client-level differential privacy of a run: what would break it is refused before; what it is worth is told."""

import logging
import math
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.factory import make_federated_method
from common.messages.records import State
from common.methods.method import Method
from server.aggregation.accounting import epsilon, planned_rounds, sufficient_noise
from server.aggregation.private import PRIVACY, Privacy, update_noise
from server.aggregation.server_optimizer import OPTIMIZERS
from server.run_directory.reader import CENTRALIZED, DEPLOYED, Kind

log = logging.getLogger("fedshield")

_NOISE = "privacy.noise-multiplier"
_LEAST = 0.001  # noise: below, epsilon is beyond a million, and soon beyond all numbers
_STRATEGIES = ("fedavg", *OPTIMIZERS)


def check_privacy(config: RunConfig, kind: Kind) -> None:
    """Refuse what goes beyond the guarantee, and a budget that no round keeps.

    Args:
        config: of the run.
        kind: of the run; centralized training has no clients.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    privacy = config.privacy
    if kind == CENTRALIZED or privacy.noise_multiplier == 0:
        _check_without(config, kind)
        return
    if config.strategy.name not in _STRATEGIES:
        raise _beyond(
            f"strategy.name = {config.strategy.name}",
            "one client can change its result by more than the noise is made for",
            f"set strategy.name to one of {', '.join(_STRATEGIES)}",
        )
    method = make_federated_method(config)
    if method.replies_beside or method.weighs():
        why = "clients send more than their model" if method.replies_beside else "it weighs replies by what they say"
        raise _beyond(f"method.name = {config.method.name}", why, "set another method, as in method.name=fedprox")
    federation = config.federation
    if federation.selection != "uniform" and federation.cohort < federation.clients:
        raise _beyond(
            f"federation.selection = {federation.selection}",
            "who trains depends on the clients' data",
            "set federation.selection=uniform",
        )
    if kind == DEPLOYED and config.method.fine_tune_epochs:
        raise _beyond(
            f"method.fine-tune-epochs = {config.method.fine_tune_epochs}",
            "over a network, the last model is sent before it is kept, and a resumed run would pay for it again",
            "set method.fine-tune-epochs=0",
        )
    _check_budget(config)


def _check_budget(config: RunConfig) -> None:
    """Refuse a delta that means nothing, an epsilon that no round keeps, and to start without dp-accounting."""
    privacy, federation = config.privacy, config.federation
    if privacy.noise_multiplier < _LEAST:
        raise FedShieldError(
            f"{_NOISE} = {privacy.noise_multiplier:g}: hides nobody; set {_LEAST:g} or more (usual: 0.3 to 10), or 0"
        )
    of_one_round = epsilon(config, 1)
    if privacy.delta * federation.clients >= 1:
        raise FedShieldError(
            f"privacy.delta = {privacy.delta:g}: with {federation.clients} clients, a mechanism that publishes one of "
            f"them whole would pass; set it below 1 / {federation.clients}"
        )
    if privacy.epsilon_max and planned_rounds(config) == 0:
        one, all_of_them = (sufficient_noise(config, rounds) for rounds in (1, federation.rounds))
        raise FedShieldError(
            f"privacy.epsilon-max = {privacy.epsilon_max:g}: one round with {_NOISE} = {privacy.noise_multiplier:g} "
            f"has epsilon {of_one_round:.3g}; raise the noise to {one:g} for one round, to {all_of_them:g} for "
            f"all {federation.rounds}"
        )


def _check_without(config: RunConfig, kind: Kind) -> None:
    privacy = config.privacy
    if kind == CENTRALIZED and privacy.noise_multiplier:
        log.warning("%s = %g has no effect: there are no clients here", _NOISE, privacy.noise_multiplier)
    elif kind != CENTRALIZED and privacy.epsilon_max:
        raise FedShieldError(
            f"privacy.epsilon-max = {privacy.epsilon_max:g}: without noise there is no epsilon; set {_NOISE} above 0, "
            "or privacy.epsilon-max=0"
        )


def _beyond(what: str, why: str, instead: str) -> FedShieldError:
    return FedShieldError(f"{what}: has no differential privacy: {why}; {instead}, or {_NOISE}=0")


def find_privacy(config: RunConfig, model: nn.Module, method: Method, kind: Kind, kept: State) -> Privacy | None:
    """Return what makes the rounds of a run private; None where nothing does.

    Args:
        config: of the run.
        model: its network.
        method: of the federation.
        kind: of the run.
        kept: all that the server has kept in an earlier part of the run.
    """
    if config.privacy.noise_multiplier == 0:
        return None
    fixed = _without_noise(model, method)
    seed = None if _is_secret(config, kind) else config.seed
    own = {name.removeprefix(PRIVACY): array for name, array in kept.items() if name.startswith(PRIVACY)}
    return Privacy(config.privacy, config.federation.cohort, seed, partial(epsilon, config), fixed, own)


def _without_noise(model: nn.Module, method: Method) -> set[str]:
    """Return the names of arrays that get no noise: what is not trained, and what stays with the clients."""
    still = {name for name, weight in model.named_parameters(remove_duplicate=False) if not weight.requires_grad}
    return still.union(method.stays(model))


def _is_secret(config: RunConfig, kind: Kind) -> bool:
    return config.privacy.noise == "secret" or (config.privacy.noise == "auto" and kind == DEPLOYED)


def tell_privacy(config: RunConfig, model: nn.Module, method: Method, kind: Kind) -> None:
    """Tell what the noise is worth, how large it is, and what else it changes.

    Args:
        config: of the run.
        model: its network.
        method: of the federation.
        kind: of the run.
    """
    privacy, clients = config.privacy, config.federation.cohort
    if privacy.noise_multiplier == 0:
        return
    rounds = planned_rounds(config)
    noisy = {name: array for name, array in model.state_dict().items() if array.is_floating_point()}
    for name in _without_noise(model, method):
        noisy.pop(name, None)
    floats = sum(array.numel() for array in noisy.values())
    log.info(
        "client-level differential privacy: epsilon = %.3g at delta = %g after %d of %d rounds%s",
        *(epsilon(config, rounds), privacy.delta, rounds, config.federation.rounds, _shortened(config, rounds)),
    )
    length = update_noise(privacy, clients) * privacy.clipping_norm / clients
    log.info(
        "privacy: each mean update gets noise of length %.3g (L2), and is itself no longer than %g; with more clients "
        "a round there is less noise",
        *(length * math.sqrt(floats), privacy.clipping_norm),
    )
    if config.strategy.update_limit:
        log.info(
            "strategy.update-limit = %g has no effect: with privacy, no client's reply may decide over another's; each "
            "is clipped instead",
            config.strategy.update_limit,
        )
    if any(isinstance(part, _BatchNorm) and f"{name}.running_var" in noisy for name, part in model.named_modules()):
        log.warning(
            "privacy: the noise falls on the statistics of batch normalization too, which it can make useless; "
            "model.norm=group has none"
        )
    if not _is_secret(config, kind):
        tell = log.warning if kind == DEPLOYED else log.info
        tell(
            "privacy: the noise follows from the seed, and who knows the seed%s can take it out; for models that you "
            "pass on set privacy.noise=secret",
            ", as all clients do," if kind == DEPLOYED else "",
        )


def _shortened(config: RunConfig, rounds: int) -> str:
    if rounds == config.federation.rounds:
        return ""
    return f": one more would exceed privacy.epsilon-max = {config.privacy.epsilon_max:g}"


def tell_budget_spent(config: RunConfig) -> None:
    """Tell that the run ends before all its rounds are done, if that is so."""
    rounds = planned_rounds(config)
    if rounds < config.federation.rounds:
        log.info(
            "privacy.epsilon-max = %g: the run ends after round %d of %d, at epsilon %.3g; round %d would bring it to "
            "%.3g",
            *(config.privacy.epsilon_max, rounds, config.federation.rounds, epsilon(config, rounds)),
            *(rounds + 1, epsilon(config, rounds + 1)),
        )
