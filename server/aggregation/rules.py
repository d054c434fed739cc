"""The robust strategies by name: how many replies each needs, and what it makes of them."""

from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import RecordDict
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg

from common.config.tables import StrategyConfig
from common.errors import FedShieldError
from server.aggregation.shares import Floats, centered_clipping, geometric_median

Selection = Callable[[list[RecordDict], int, int], list[RecordDict]]  # replies, liars, number to select


@dataclass(frozen=True)
class WholeReplies:
    """The mean of the replies that have the best scores of Krum.

    Attributes:
        needs: number of liars -> number of replies that it needs.
        count: numbers of replies and of liars among them -> number of replies that it averages.
    """

    needs: Callable[[int], int]
    count: Callable[[int, int], int]


@dataclass(frozen=True)
class EachValue:
    """One of Flower's strategies that look at each value by itself.

    Attributes:
        needs: number of liars -> number of replies that it needs.
        make: called with the numbers of replies and of liars, and with how to choose by Krum's scores.
    """

    needs: Callable[[int], int]
    make: Callable[[int, int, Selection], FedAvg]


@dataclass(frozen=True)
class Shares:
    """A sum of the updates, of which the inner products tell how much each counts.

    Attributes:
        needs: number of liars -> number of replies that it needs.
        give: products of the updates [n,n], images of each client [n], radius -> share of each update, [n].
    """

    needs: Callable[[int], int]
    give: Callable[[Floats, Floats, float], Floats]


@dataclass(frozen=True)
class ByPool:
    """A sum of the updates, of which the server's own images tell how much each counts.

    Attributes:
        needs: number of liars -> number of replies that it needs.
        trains: whether the server trains on these images; else it measures the clients' models on them.
    """

    needs: Callable[[int], int]
    trains: bool


def no_pool(settings: StrategyConfig) -> FedShieldError:
    """Return what to say where the server has no images of its own."""
    return FedShieldError(
        f"strategy.name = {settings.name}: judges the clients by a pool of the server's, which has no images; set "
        "sharing.pool-fraction above 0, or another strategy"
    )


def check_strategy(settings: StrategyConfig, cohort: int) -> None:
    """Refuse a strategy for more liars than it tolerates among ``cohort`` clients of a round.

    Raises:
        FedShieldError: one line with the key, what was found and what to do.
    """
    if settings.name not in RULES:
        if settings.pre != "none":
            raise FedShieldError(
                f"strategy.pre = {settings.pre}: prepares the replies for a robust strategy, and strategy.name = "
                f"{settings.name} is none; set strategy.pre=none, or another strategy.name, as in "
                "strategy.name=trimmed-mean"
            )
        return
    needed = RULES[settings.name].needs(settings.malicious)
    if cohort < needed:
        raise FedShieldError(
            f"strategy.malicious = {settings.malicious}: strategy.name = {settings.name} needs {needed} clients a "
            f"round for this, there are {cohort}; lower strategy.malicious, or choose another strategy"
        )


RULES: dict[str, WholeReplies | EachValue | Shares | ByPool] = {
    # Blanchard et al. 2017 (arXiv 1703.02757): the reply nearest to its neighbors, or the mean of all but f such.
    "krum": WholeReplies(lambda f: 2 * f + 3, lambda n, f: 1),
    "multi-krum": WholeReplies(lambda f: 2 * f + 3, lambda n, f: n - f),
    # El Mhamdi et al. 2018 (arXiv 1802.07927)
    "bulyan": EachValue(lambda f: 4 * f + 3, lambda n, f, select: Bulyan(num_malicious_nodes=f, selection_rule=select)),
    # Yin et al. 2018 (arXiv 1803.01498): in each weight, without the f smallest and the f largest, or the median.
    # Flower takes a share, and rounds the resulting number down.
    "trimmed-mean": EachValue(
        lambda f: 2 * f + 2, lambda n, f, select: FedTrimmedAvg(beta=(f + 0.5) / n if f else 0.0)
    ),
    "median": EachValue(lambda f: 2 * f + 1, lambda n, f, select: FedMedian()),
    "geometric-median": Shares(
        lambda f: 2 * f + 1, lambda products, images, radius: geometric_median(products, images)
    ),
    "centered-clipping": Shares(
        lambda f: 2 * f + 1, lambda products, images, radius: centered_clipping(products, radius)
    ),
    # Statistics of batch normalization need a majority of honest clients, the weights do not.
    "fltrust": ByPool(lambda f: 2 * f + 1, trains=True),
    "fedgreed": ByPool(lambda f: 2 * f + 1, trains=False),
}
