"""pfl's side of ``same_work``: apple/pfl-research's CIFAR-10 benchmark, set up as its authors set it up.

As in their ``benchmarks/image_classification/pytorch/train.py`` clients are slices of the images, and every client
weighs the same. It lacks their stopwatch, metrics file and regular evaluation: the timed rounds do nothing but train
and aggregate.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pfl.aggregate.simulate import SimulatedBackend  # type: ignore[import-not-found]
from pfl.aggregate.weighting import WeightByUser  # type: ignore[import-not-found]
from pfl.algorithm.base import NNAlgorithmParams  # type: ignore[import-not-found]
from pfl.algorithm.federated_averaging import FederatedAveraging  # type: ignore[import-not-found]
from pfl.callback.base import TrainingProcessCallback  # type: ignore[import-not-found]
from pfl.data.federated_dataset import FederatedDataset  # type: ignore[import-not-found]
from pfl.data.sampling import get_user_sampler  # type: ignore[import-not-found]
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams  # type: ignore[import-not-found]
from pfl.metrics import Metrics, Weighted  # type: ignore[import-not-found]
from pfl.model.pytorch import PyTorchModel  # type: ignore[import-not-found]
from torch import Tensor

from benchmarks.sides import work


class Network(work.Network):
    """The network with the two methods that pfl calls."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss of a batch."""
        return work.train(self, images, labels)

    @torch.no_grad()
    def metrics(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return the loss and accuracy of a batch in eval mode."""
        self.eval()
        logits = self(images)
        loss = F.cross_entropy(logits, labels, reduction="sum").item()
        correct = (logits.argmax(1) == labels).sum().item()
        return {"loss": Weighted(loss, len(labels)), "accuracy": Weighted(correct, len(labels))}


class Rounds(TrainingProcessCallback):  # type: ignore[misc]
    """Tells the clock when a round ends."""

    def __init__(self, clock: work.Clock) -> None:
        self.clock = clock

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Any]:
        """Note the time; go on."""
        self.clock.tick()
        return False, Metrics()


def main() -> None:
    """Train, and print one JSON line."""
    options = work.read_options()
    np.random.seed(0)  # noqa: NPY002  # which is what pfl draws from
    data = dict(enumerate(work.read_shards(options)))
    clients = FederatedDataset.from_slices(data, get_user_sampler("random", range(options.clients)))
    network, clock = Network(), work.Clock()
    FederatedAveraging().run(
        # It always evaluates in its first round, before and after each client's training; that round is not timed.
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=options.rounds,
            evaluation_frequency=options.rounds + 1,
            train_cohort_size=options.cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(clients, None, postprocessors=[WeightByUser()]),
        model=PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), 1.0)),
        model_train_params=NNTrainHyperParams(
            local_batch_size=work.BATCH, local_num_epochs=1, local_learning_rate=work.LEARNING_RATE
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=work.TEST_BATCH),
        callbacks=[Rounds(clock)],
        send_metrics_to_platform=False,
    )
    work.finish(clock, work.accuracy(network, options))


if __name__ == "__main__":
    main()
