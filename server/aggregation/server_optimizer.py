"""Flower's server optimizers: the mean of the replies is a direction, and the server takes a step of its own.

They see the mean as the only reply of a round, so that the guard and the method come first. They change weights alone:
a step of Adam on a variance of batch normalization could make it negative. What they keep is in the checkpoint.
"""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from flwr.app import Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi

from common.config.tables import StrategyConfig
from common.errors import DeadEndError
from common.messages.protocol import ARRAYS, METRICS, NUM_EXAMPLES
from common.messages.records import State, to_record, to_state


class ServerOptimizer:
    """A step from one global model to the next.

    Args:
        settings: ``strategy.*``; the name is a key of ``OPTIMIZERS``.
        weights: names of the arrays that are trained.
        kept: what it has kept in an earlier part of the run; changed by each step.
    """

    def __init__(self, settings: StrategyConfig, weights: Collection[str], kept: State) -> None:
        self._strategy: Any = OPTIMIZERS[settings.name](settings)
        self._name, self._weights, self._kept = settings.name, weights, kept

    def step(self, server_round: int, before: State, mean: State) -> State:
        """Return the new global model.

        Args:
            server_round: from 1.
            before: the global model of this round.
            mean: of the replies.
        """
        names = [name for name in mean if name in self._weights]
        strategy, start = self._strategy, {name: before[name] for name in names}
        self._recall(names, start)
        content = RecordDict(
            {ARRAYS: to_record({name: mean[name] for name in names}), METRICS: MetricRecord({NUM_EXAMPLES: 1})}
        )
        arrays, _ = strategy.aggregate_train(server_round, [Message(content, 1, MessageType.TRAIN)])
        self._keep(names)
        moved = to_state(arrays)
        if wild := [name for name, array in moved.items() if not array.isfinite().all()]:
            raise DeadEndError(
                f"strategy.name = {self._name}: its step gives {wild[0]} with values that are not finite; lower "
                "strategy.server-rate"
            )
        return {name: moved[name].to(value.dtype) if name in moved else value for name, value in mean.items()}

    def _recall(self, names: list[str], start: State) -> None:
        """Give Flower's strategy the model of this round, and what was kept of the rounds before."""
        strategy, kept = self._strategy, {name: tensor.numpy() for name, tensor in self._kept.items()}
        if isinstance(strategy, FedAvgM):
            strategy.current_arrays = to_record(start)
            strategy.momentum_vector = [kept[f"m/{name}"] for name in names] if kept else None
        else:
            strategy.current_arrays = {name: tensor.numpy() for name, tensor in start.items()}
            strategy.m_t = {name: kept[f"m/{name}"] for name in names} if kept else None
            strategy.v_t = {name: kept[f"v/{name}"] for name in names} if kept else None

    def _keep(self, names: list[str]) -> None:
        strategy = self._strategy
        if isinstance(strategy, FedAvgM):
            found = {"m": dict(zip(names, strategy.momentum_vector or [], strict=False))}
        else:
            found = {"m": strategy.m_t, "v": strategy.v_t}
        for kind, arrays in found.items():
            self._kept |= {f"{kind}/{name}": torch.from_numpy(np.array(array)) for name, array in arrays.items()}


OPTIMIZERS: dict[str, Callable[[StrategyConfig], FedAvg]] = {
    # Hsu et al. 2019 (arXiv 1909.06335), equation 1
    "fedavgm": lambda s: FedAvgM(server_learning_rate=s.server_rate, server_momentum=s.server_momentum),
    # Reddi et al. 2021 (arXiv 2003.00295), algorithm 2; Flower's v starts at zero, and its Adam corrects the bias
    "fedadagrad": lambda s: FedAdagrad(eta=s.server_rate, tau=s.server_tau),
    "fedadam": lambda s: FedAdam(eta=s.server_rate, beta_1=s.server_momentum, beta_2=0.99, tau=s.server_tau),
    "fedyogi": lambda s: FedYogi(eta=s.server_rate, beta_1=s.server_momentum, beta_2=0.99, tau=s.server_tau),
}
