"""A small network that resists a little, and images to measure it on."""

from torch import nn

from common.attacks.threat import Threat
from common.data.datasets import Dataset, load_data
from common.data.draws import balanced_subset
from common.models.networks import build_model
from common.training.losses import LOSSES, LossContext
from common.training.trainer import Trainer, TrainingPlan

THREAT = Threat(4 / 255, 1 / 255, 10)


def trained_network(count: int) -> tuple[nn.Module, Dataset]:
    """Return a network after some seconds of adversarial training within ``THREAT``, and ``count`` test images."""
    splits = load_data("shapes10", "data", 32)
    train = splits.train.take(balanced_subset(splits.train.labels, 600, 1, "subset"))
    model = build_model("cnn", 10, 4, "relu", True, 1)
    loss = LOSSES["pgd-at"](model, LossContext("fgsm", THREAT, 0.0, 0.0))
    Trainer(model).fit(train.images, train.labels, loss, TrainingPlan(8, 16, 0.05, 0.9, 0.0, False, "float32"), 1)
    return model.eval(), splits.test.take(balanced_subset(splits.test.labels, count, 1, "subset"))
