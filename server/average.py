"""The average of a run's models over its rounds, which is what is evaluated and exported."""

import torch

from common.config.tables import TrainConfig
from common.messages.records import State


class ModelAverage:
    """An average that goes along with training, which does not go on from it.

    ``ema``: a ← d a + (1 − d) w, from a = w. ``swa``: the mean of all models w so far (Izmailov et al. 2018, arXiv
    1803.05407, algorithm 1). The running statistics of batch normalization are averaged like weights, as FedAvg does
    among clients: Izmailov et al. compute them again from training images, which the server does not have. Integer
    counters are those of the last model. It costs no pass.

    Args:
        train: the average, its decay, and the first round that counts.
        number: of finished rounds.
        average: after these; used only if one of them counts.

    Attributes:
        train: as above.
    """

    def __init__(self, train: TrainConfig, number: int, average: State | None) -> None:
        self.train = train
        self._average = average if self._counts(number) else None

    def follow(self, train: TrainConfig) -> None:
        """Go on with another average, or from another round; what was averaged before is forgotten."""
        if train != self.train:
            self.train, self._average = train, None

    def after(self, number: int, state: State) -> State | None:
        """Return the average with the model of round ``number``; None where there is none. Neither is changed later."""
        if not self._counts(number):
            return None
        if self._average is None:
            self._average = state
            return state
        train, before = self.train, self._average
        share = 1 - train.average_decay if train.average == "ema" else 1 / (number - train.average_start + 1)
        self._average = {
            name: torch.lerp(before[name], now, share) if now.is_floating_point() else now
            for name, now in state.items()
        }
        return self._average

    def _counts(self, number: int) -> bool:
        return self.train.average != "none" and number >= self.train.average_start
