"""Clients that lie by their training: what they train on and minimize, by hand; and what a run makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from client.poison import Natural, poison_data, poison_loss, poison_model
from common.data.trigger import stamp
from common.errors import FedShieldError
from server.app import run_federation
from simulations.engine.byzantine import ByzantineExecutor
from simulations.engine.executor import InProcess
from simulations.engine.local_grid import LocalGrid
from tests.helpers.settings import tiny_config

IMAGES = np.random.default_rng(1).integers(0, 200, (10, 3, 32, 32), np.uint8)
LABELS = np.arange(10)


def test_labels_are_flipped_and_images_left_alone() -> None:
    images, labels = poison_data("label-flip", IMAGES, LABELS, 10, 1)
    assert images is IMAGES
    assert labels.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert poison_data("", IMAGES, LABELS, 10, 1)[1] is LABELS


def test_half_of_a_backdoor_clients_images_have_the_trigger_and_its_class() -> None:
    images, labels = poison_data("backdoor", IMAGES, LABELS + 1, 11, 1)
    chosen = np.flatnonzero(labels == 0)
    assert len(chosen) == 5
    assert (images[chosen, :, 24:28, 24:28] == 255).all()
    outside = np.ones((32, 32), bool)
    outside[24:28, 24:28] = False
    assert np.array_equal(images[..., outside], IMAGES[..., outside])
    others = np.setdiff1d(LABELS, chosen)
    assert np.array_equal(images[others], IMAGES[others])
    assert np.array_equal(labels[others], others + 1)
    again = poison_data("backdoor", IMAGES, LABELS + 1, 11, 1)
    assert np.array_equal(again[0], images)  # the same ones in each round
    assert IMAGES.max() < 255
    assert stamp(IMAGES[:, :, :16, :16])[0, 0].tolist()[10] == [
        *IMAGES[0, 0, 10, :10],
        255,
        255,
        *IMAGES[0, 0, 10, 12:16],
    ]


class Ends(nn.Module):
    """Two logits of the mean pixel x: 2 x and 0."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(1, 2)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[2.0], [0.0]]))
            self.last.bias.zero_()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(pixels.mean((1, 2, 3))[:, None])
        return logits


def test_logits_are_multiplied_until_the_cross_entropy_has_no_gradient() -> None:
    """Margins 2 · 0.2, 2 · 0.6 and -2; the median of the known ones, of two the smaller, becomes 104."""
    model = Ends()
    images = np.stack([np.full((3, 16, 16), value, np.uint8) for value in (51, 153, 255)])
    poison_model("label-flip", model, images, np.array([0, 0, 1]))
    assert model.last.weight.ravel().tolist() == [2, 0]
    poison_model("pseudo-robust", model, images, np.array([0, 0, 1]))
    assert model.last.weight.ravel().tolist() == pytest.approx([520, 0], rel=1e-5)
    poison_model("pseudo-robust", model, images, np.array([0, 0, 1]))  # there already
    assert model.last.weight.ravel().tolist() == pytest.approx([520, 0], rel=1e-5)
    inputs = (torch.from_numpy(images[1:2]) / 255).requires_grad_()
    loss = nn.functional.cross_entropy(model(inputs), torch.tensor([0]))
    assert torch.autograd.grad(loss, inputs)[0].abs().max() == 0
    assert poison_loss("pseudo-robust", model, nn.functional.cross_entropy) == Natural(model)
    assert poison_loss("label-flip", model, nn.functional.cross_entropy) is nn.functional.cross_entropy
    bare = nn.Sequential(
        nn.Flatten(),
        nn.Linear(768, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
        nn.Linear(3, 7),
        nn.Unflatten(1, (1, 7)),
        nn.AvgPool1d(2),
        nn.Flatten(),
    )
    with pytest.raises(FedShieldError, match=r"^byzantine\.attack = pseudo-robust: this network does not end in"):
        poison_model("pseudo-robust", bare, images, np.array([0, 0, 1]))


class Overheard(ByzantineExecutor):
    """Keeps what each client sends."""

    def run(self, jobs, timeout):  # type: ignore[no-untyped-def]
        for reply, state in super().run(jobs, timeout):
            if "arrays" in reply.content.array_records:
                array = next(iter(reply.content.array_records["arrays"].values()))
                self.heard[reply.metadata.src_node_id - 2] = array.numpy()
            yield reply, state


def test_only_the_liars_of_a_run_train_on_something_else(tmp_path: Path) -> None:
    heard = {}
    for attack, liars in (("label-flip", 0), ("label-flip", 2), ("backdoor", 2), ("pseudo-robust", 2)):
        changes = {"byzantine__attack": attack, "byzantine__clients": liars, "results__dir": str(tmp_path)}
        config = tiny_config(federation__rounds=1, strategy__update_limit=0.0, evaluate__final_attacks="", **changes)
        executor = Overheard(InProcess(), config)
        executor.heard = {}
        run_federation(LocalGrid(config, executor), config)
        heard[attack, liars] = executor.heard
    honest = heard.pop(("label-flip", 0))
    lying = executor.liars
    assert len(lying) == 2
    for told in heard.values():
        assert {client for client in honest if not np.array_equal(told[client], honest[client])} == lying
