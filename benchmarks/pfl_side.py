"""pfl's side of ``pfl_same_work``: apple/pfl-research's CIFAR-10 benchmark, set up as its authors set it up.

It is run by the Python of pfl's own environment and imports nothing of FedShield. As in their
``benchmarks/image_classification/pytorch/train.py`` the images are normalized once and kept as float32 tensors of shape
[N,H,W,C], clients are slices of them, and every client weighs the same. It lacks their stopwatch, metrics file and
regular evaluation: the timed rounds do nothing but train and aggregate.
"""

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pfl.aggregate.simulate import SimulatedBackend  # type: ignore[import-not-found]
from pfl.aggregate.weighting import WeightByUser  # type: ignore[import-not-found]
from pfl.algorithm.base import NNAlgorithmParams  # type: ignore[import-not-found]
from pfl.algorithm.federated_averaging import FederatedAveraging  # type: ignore[import-not-found]
from pfl.callback.base import TrainingProcessCallback  # type: ignore[import-not-found]
from pfl.data.dataset import Dataset  # type: ignore[import-not-found]
from pfl.data.federated_dataset import FederatedDataset  # type: ignore[import-not-found]
from pfl.data.sampling import get_user_sampler  # type: ignore[import-not-found]
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams  # type: ignore[import-not-found]
from pfl.metrics import Metrics, StringMetricName, Weighted  # type: ignore[import-not-found]
from pfl.model.pytorch import PyTorchModel  # type: ignore[import-not-found]
from torch import Tensor, nn

# Of CIFAR-10's training pixels, as FedShield has them; pfl's own script computes them at each start, in seconds.
MEAN = 255 * np.array([0.4914, 0.4822, 0.4465], dtype=np.float32)
DEVIATION = 255 * np.array([0.2470, 0.2435, 0.2616], dtype=np.float32)


class Network(nn.Module):
    """The ``simple_cnn`` of pfl's benchmarks for images [B,32,32,3], with the two methods that pfl calls."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first_step_at = 0.0
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(64 * 14 * 14, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, classes),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, images: Tensor) -> Tensor:
        """[B,H,W,C] -> logits [B,classes]."""
        logits: Tensor = self.layers(images.permute(0, 3, 1, 2))
        return logits

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss of a batch."""
        self.first_step_at = self.first_step_at or time.time()
        self.train()
        return F.cross_entropy(self(images), labels)

    @torch.no_grad()
    def metrics(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return the loss and accuracy of a batch in eval mode."""
        self.eval()
        logits = self(images)
        loss = F.cross_entropy(logits, labels, reduction="sum").item()
        correct = (logits.argmax(1) == labels).sum().item()
        return {"loss": Weighted(loss, len(labels)), "accuracy": Weighted(correct, len(labels))}


class Clock(TrainingProcessCallback):  # type: ignore[misc]
    """Notes when each round ends: in wall time, and in seconds of CPU time."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Any]:
        """Note the time; go on."""
        self.ends.append((time.perf_counter(), time.process_time()))
        return False, Metrics()


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="npz with train-images, train-labels, test-images, test-labels")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--cohort", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--started", type=float, default=time.time(), help="Unix time from which to count")
    return parser.parse_args()


def tensors(arrays: dict[str, Any], part: str, order: Any) -> tuple[Tensor, Tensor]:
    """Return normalized images, channels last, and labels."""
    images = arrays[f"{part}-images"][order].transpose(0, 2, 3, 1).astype(np.float32, order="C")
    images -= MEAN
    images /= DEVIATION
    return torch.from_numpy(images), torch.from_numpy(arrays[f"{part}-labels"][order])


def main() -> None:
    """Train, and print one JSON line."""
    options = read_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # which is what pfl draws from

    with np.load(options.data) as file:
        arrays = {name: file[name] for name in file.files}

    order = np.random.permutation(len(arrays["train-labels"]))  # noqa: NPY002
    shards = (torch.tensor_split(part, options.clients) for part in tensors(arrays, "train", order))
    data = dict(enumerate(zip(*shards, strict=True)))
    clients = FederatedDataset.from_slices(data, get_user_sampler("random", range(options.clients)))
    network = Network(int(arrays["train-labels"].max()) + 1)
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), 1.0))
    clock = Clock()
    evaluation = NNEvalHyperParams(local_batch_size=500)
    FederatedAveraging().run(
        # It always evaluates in its first round, before and after each client's training; that round is not timed.
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=options.rounds,
            evaluation_frequency=options.rounds + 1,
            train_cohort_size=options.cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(clients, None, postprocessors=[WeightByUser()]),
        model=model,
        model_train_params=NNTrainHyperParams(local_batch_size=10, local_num_epochs=1, local_learning_rate=0.1),
        model_eval_params=evaluation,
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    test = Dataset(tensors(arrays, "test", slice(None)))
    found = model.evaluate(test, StringMetricName, evaluation).to_simple_dict(to_lowercase=True)
    rounds, cpu = np.diff(clock.ends, axis=0).T.tolist()
    figures = {
        "rounds": rounds,
        "cpu": cpu,
        "first-step": network.first_step_at - options.started,
        "accuracy": found["accuracy"],
        "test-loss": found["loss"],
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
