"""Local training: augmentation, and SGD equal to a loop written out."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from common.attacks.threat import Threat
from common.factory import prepare_data, training_plan
from common.models.networks import build_model
from common.seeding import seed_for
from common.training.augmentation import augment, draw_crops
from common.training.losses import LOSSES, LossContext
from common.training.trainer import Trainer, TrainingPlan, pixels
from tests.helpers.settings import tiny_config

IMAGES = np.random.default_rng(0).integers(0, 256, (21, 3, 32, 32), dtype=np.uint8)
LABELS = np.arange(21) % 10
SCHEDULE = TrainingPlan(2, 8, 0.1, 0.9, 5e-4, augment=False, precision="float32")
PLAIN = LossContext("none", Threat(0, 1, 1), label_smoothing=0.0, noise_std=0.0)


def trained(schedule: TrainingPlan = SCHEDULE, seed: int = 1, context: LossContext = PLAIN) -> dict[str, torch.Tensor]:
    model = build_model("cnn", 10, 2, "relu", True, 1)
    Trainer(model).fit(IMAGES, LABELS, LOSSES["pgd-at"](model, context), schedule, seed)
    return model.state_dict()


def test_fit_is_sgd_over_shuffled_batches() -> None:
    model = build_model("cnn", 10, 2, "relu", True, 1).train()
    generator = torch.Generator().manual_seed(seed_for(1, "order"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    sizes = []
    for _ in range(2):
        order = torch.randperm(21, generator=generator)
        for start in range(0, 21, 8):
            batch = order[start : start + 8].numpy()
            sizes.append(len(batch))
            optimizer.zero_grad()
            F.cross_entropy(model(torch.tensor(IMAGES[batch]).float() / 255), torch.tensor(LABELS[batch])).backward()
            optimizer.step()
    assert sizes == [8, 8, 5] * 2
    found = trained()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_momentum_that_is_given_is_gone_on_from_and_otherwise_starts_anew() -> None:
    schedule = TrainingPlan(1, 8, 0.1, 0.9, 5e-4, augment=False, precision="float32")

    def twice(keep: bool, restore: bool = False) -> dict[str, torch.Tensor]:
        model = build_model("cnn", 10, 2, "relu", True, 1)
        trainer, loss = Trainer(model), LOSSES["pgd-at"](model, PLAIN)
        trainer.fit(IMAGES, LABELS, loss, schedule, 1)
        momenta = trainer.momenta
        if restore:  # as a resumed run does: another trainer, and buffers read from a file
            trainer, momenta = Trainer(model), [momentum.clone() for momentum in momenta]
        trainer.fit(IMAGES, LABELS, loss, schedule, 2, momenta if keep else None)
        return model.state_dict()

    def by_torch(keep: bool) -> dict[str, torch.Tensor]:
        model = build_model("cnn", 10, 2, "relu", True, 1).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        for seed in (1, 2):
            if not keep:
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
            order = torch.randperm(21, generator=torch.Generator().manual_seed(seed_for(seed, "order")))
            for batch in order.numpy()[:8], order.numpy()[8:16], order.numpy()[16:]:
                optimizer.zero_grad()
                inputs = torch.tensor(IMAGES[batch]).float() / 255
                F.cross_entropy(model(inputs), torch.tensor(LABELS[batch])).backward()
                optimizer.step()
        return model.state_dict()

    kept, fresh = by_torch(keep=True), by_torch(keep=False)
    assert any(not torch.equal(kept[name], fresh[name]) for name in kept)
    for expected, found in ((kept, twice(True)), (kept, twice(True, restore=True)), (fresh, twice(False))):
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_fit_tells_how_far_it_is_after_each_step() -> None:
    model = build_model("cnn", 10, 2, "relu", True, 1)
    seen: list[int] = []
    Trainer(model).fit(IMAGES, LABELS, LOSSES["pgd-at"](model, PLAIN), SCHEDULE, 1, on_batch=seen.append)
    assert seen == [8, 16, 21, 29, 37, 42]


def test_fit_reports_images_and_mean_loss() -> None:
    model = build_model("cnn", 10, 2, "relu", True, 1)
    frozen = TrainingPlan(1, 8, 1e-30, 0.0, 0.0, augment=False, precision="float32")  # a rate that moves nothing
    result = Trainer(model).fit(IMAGES, LABELS, LOSSES["pgd-at"](model, PLAIN), frozen, 1)
    assert result.examples == 21
    fresh = build_model("cnn", 10, 2, "relu", True, 1).train()
    order = torch.randperm(21, generator=torch.Generator().manual_seed(seed_for(1, "order")))
    losses = [
        F.cross_entropy(
            fresh(pixels(IMAGES[batch.numpy()], torch.device("cpu"))), torch.tensor(LABELS[batch]), reduction="sum"
        ).item()
        for batch in order.split(8)
    ]
    assert abs(result.loss - sum(losses) / 21) < 1e-5


def test_same_seed_same_weights_whatever_was_drawn_before() -> None:
    context = LossContext("pgd", Threat(8 / 255, 2 / 255, 2), 0.05, 0.1)
    schedule = TrainingPlan(1, 8, 0.1, 0.9, 5e-4, augment=True, precision="float32")
    first = trained(schedule, context=context)
    torch.rand(7)
    second, other = trained(schedule, context=context), trained(schedule, seed=2, context=context)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_bfloat16_keeps_float32_weights_near_those_of_float32() -> None:
    half = trained(TrainingPlan(1, 8, 0.01, 0.9, 0.0, augment=False, precision="bfloat16"))
    full = trained(TrainingPlan(1, 8, 0.01, 0.9, 0.0, augment=False, precision="float32"))
    name = "13.weight" if "13.weight" in half else next(reversed([key for key in half if key.endswith("weight")]))
    assert half[name].dtype == torch.float32
    assert not torch.equal(half[name], full[name])
    assert torch.allclose(half[name], full[name], atol=0.02)


def test_augment_crops_out_of_a_black_border_and_flips() -> None:
    # Every pixel tells its own place, so that crop and flip can be read off the result.
    rows, columns = torch.meshgrid(torch.arange(1, 33), torch.arange(1, 33), indexing="ij")
    image = torch.stack([rows, columns, rows + columns]).to(torch.uint8)
    result = augment(image.expand(400, 3, 32, 32), draw_crops(400, torch.Generator().manual_seed(0))).numpy()
    padded = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)))
    places = set()
    for one in result:
        found = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if np.array_equal(one, padded[:, top : top + 32, left : left + 32][:, :, :: -1 if flip else 1])
        ]
        assert len(found) == 1
        places.add(found[0])
    assert {top for top, _, _ in places} == {left for _, left, _ in places} == set(range(9))
    assert sum(flip for _, _, flip in places) / len(places) > 0.4
    assert len(places) > 130  # of 162: rows, columns and flips are drawn independently


def test_without_flips_the_crops_are_the_same() -> None:
    crops, unflipped = (draw_crops(400, torch.Generator().manual_seed(0), flip) for flip in (True, False))
    assert torch.equal(crops[:, :2], unflipped[:, :2])
    assert 150 < crops[:, 2].sum() < 250
    assert unflipped[:, 2].sum() == 0


@pytest.mark.parametrize(
    ("name", "flip", "mirrored"),
    [
        *((name, "auto", True) for name in ("shapes10", "cifar10", "cifar100", "fashion-mnist", "folder", "split")),
        ("svhn", "auto", False),
        ("svhn", "on", True),
        ("cifar10", "off", False),
    ],
)
def test_images_are_mirrored_where_that_keeps_their_class(name: str, flip: str, mirrored: bool) -> None:
    config = tiny_config(data__name=name, train__flip=flip)
    plan = replace(training_plan(config, 4, 1, 1), learning_rate=1e-30)
    # White from column 4 to 11: after any crop that begins in columns 0 to 8, and mirrored in 16 to 24.
    images, seen = np.zeros((25, 3, 32, 32), np.uint8), []
    images[:, :, 8:24, 4:12] = 255
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

    def loss(given: Tensor, labels: Tensor) -> Tensor:
        seen.append(given[:, 0, 16].argmax(dim=1) >= 12)
        return F.cross_entropy(model(given), labels)

    Trainer(model).fit(images, np.arange(25) % 10, loss, plan, 1)
    share = torch.cat(seen).float().mean().item()
    assert 0.3 < share < 0.7 if mirrored else share == 0


def test_pixels_span_zero_to_one() -> None:
    found = pixels(np.array([0, 51, 255], dtype=np.uint8), torch.device("cpu"))
    assert found.tolist() == [0.0, np.float32(0.2), 1.0]


def test_a_run_does_not_import_torchs_compiler_the_partitioners_or_a_superlink() -> None:
    # Each costs seconds in every process: torch.optim's classes import the first, flwr-datasets is needed once a
    # machine, and Flower's SuperLink brings its database and its web server along.
    code = (
        "import sys, server.app\nfrom tests.unit.common.test_training import SCHEDULE, trained\ntrained(SCHEDULE)\n"
        "from common.factory import prepare_data\nfrom tests.conftest import tiny_config\n"
        "prepare_data(tiny_config(partition__scheme='iid'))\n"
        "large = 'torch._dynamo', 'flwr_datasets', 'ray', 'matplotlib', 'sqlalchemy', 'fastapi'\n"
        "print([name for name in large if name in sys.modules])"
    )
    prepare_data(tiny_config(partition__scheme="iid"))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (5, 4, [5]),
        (1, 4, [1]),
        (3, 4, [3]),
        (3, 1, [1, 1, 1]),
        (3, 2, [3]),
    ],
)
def test_one_image_that_is_left_over_joins_the_batch_before_it(count: int, most: int, expected: list[int]) -> None:
    seen: list[int] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(images))
        return F.cross_entropy(model(images), labels)

    images, labels = np.zeros((count, 3, 32, 32), np.uint8), np.arange(count) % 10
    for moved in (False, True):
        seen.clear()
        Trainer(model).fit(images, labels, loss, TrainingPlan(1, most, 0.01, 0.9, 0.0, moved, "float32"), 1)
        assert seen == expected
