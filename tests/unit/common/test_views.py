"""Images as NumPy gives them, whatever their strides: a view, a mirrored one, one in Fortran's order."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from common.attacks.threat import Threat
from common.evaluation.evaluate import evaluate
from common.models.networks import build_model
from common.training.trainer import Trainer, TrainingPlan

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = np.random.default_rng(1).integers(0, 256, (4, 3, 32, 32), np.uint8)
VIEWS = {
    "pixel by pixel": np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "mirrored": np.ascontiguousarray(IMAGES[..., ::-1])[..., ::-1],
    "in Fortran's order": np.asfortranarray(IMAGES),
}


class ChannelsLast(nn.Sequential):
    """A user's network that lays out its images in another way."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """From pixels to logits."""
        return super().forward(pixels.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("images", VIEWS.values(), ids=VIEWS)
def test_an_evaluation_takes_any_view_of_the_same_images(images: NDArray[np.uint8]) -> None:
    torch.manual_seed(1)
    model = ChannelsLast(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)).eval()
    labels = model(torch.from_numpy(IMAGES) / 255).argmax(1).numpy()
    assert not images.flags.c_contiguous

    def found(given: NDArray[np.uint8]) -> dict[str, list[int]]:
        evaluation = evaluate(model, given, labels, ["pgd-2", "fab-t-2"], Threat.from_255(4, 2), 1)
        return {name: array.tolist() for name, array in evaluation.predictions.items()}

    assert found(images) == found(IMAGES)


@pytest.mark.parametrize("images", VIEWS.values(), ids=VIEWS)
def test_training_takes_any_view_of_the_same_images(images: NDArray[np.uint8]) -> None:
    labels, left = np.arange(4)[::-1], []
    for given in (images, IMAGES):
        model = build_model("cnn", 10, 2, "relu", True, 1)
        plan = TrainingPlan(1, 2, 0.1, momentum=0.0, weight_decay=0.0, augment=True, precision="float32")
        Trainer(model).fit(given, labels, lambda x, y, net=model: nn.functional.cross_entropy(net(x), y), plan, 1)
        left.append(model.state_dict())
    assert all(torch.equal(left[0][name], left[1][name]) for name in left[0])
