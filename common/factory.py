"""From a run config to the objects that server and client both need; the same in every process."""

import logging
import os
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from common.attacks.threat import Threat
from common.config.data_tables import DataConfig, PartitionConfig, SharingConfig
from common.config.schema import USER_CODE_KEYS, RunConfig
from common.data.datasets import Dataset, Splits, forget_adopted, load_data
from common.data.owners import image_owners
from common.data.partition import Amounts, Partition, kept_partition, undivided
from common.data.schemes import SchemeParameters
from common.data.server_data import ServerData, take_server_data
from common.data.split_directories import client_images, read_server_data, server_test
from common.errors import FedShieldError
from common.machine import asked_device, available_cores, fitting_precision, keep_freed_memory
from common.methods.library import build_method
from common.methods.method import Method, MethodContext
from common.models.fast_network import why_not_folded
from common.models.networks import MODELS, build_model, trains_on_one
from common.paths import whole_path
from common.seeding import rng_for
from common.training.awp import WeightPerturbation
from common.training.calibration import Calibration
from common.training.losses import LossContext, TrainingMethod
from common.training.schedule import learning_rate
from common.training.trainer import Trainer, TrainingPlan
from common.user_code import load_user_code

log = logging.getLogger("fedshield")


def prepare_torch(threads: int) -> torch.device:
    """Make computations in this process reproducible, and return the device to use: a GPU that CUDA finds, if any.

    The environment variable ``FEDSHIELD_DEVICE`` asks for another one: ``cpu``, or ``mps`` for Apple's GPUs, which
    nobody has tried yet and which are therefore not used by themselves.

    Sums of floats depend on how threads divide them, so the number of threads is part of the configuration and
    is the same in every process of a run, however many processes there are.

    Args:
        threads: CPU threads of each operation; 0 = one for each core this process may use.

    Raises:
        FedShieldError: the device that is asked for is not there.
    """
    keep_freed_memory()
    torch.set_num_threads(threads or available_cores())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.allow_tf32 = False  # a 10-bit mantissa is not the float32 that is documented
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return _device()


def _device() -> torch.device:
    asked = asked_device()
    if asked not in ("", "cpu", "mps"):
        raise FedShieldError(f"FEDSHIELD_DEVICE = {asked}: unknown; allowed: cpu, mps; unset it to use CUDA's GPU")
    if asked == "mps" and not torch.backends.mps.is_available():
        raise FedShieldError("FEDSHIELD_DEVICE = mps: torch finds no GPU of Apple's on this machine; unset it")
    return torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))


def prepare_data(config: RunConfig, centralized: bool = False) -> tuple[Splits, Partition]:
    """Load the run's dataset and divide it; kept for the next call in the same process.

    Args:
        config: of the run.
        centralized: give all data to one holder; the settings of partition and sharing are ignored.

    Raises:
        FedShieldError: the data is missing or damaged, or cannot be divided in this way.
    """
    if not centralized:
        config.check_division()
    clients = 0 if centralized else config.federation.clients
    return _prepare_data(config.data, config.partition, config.sharing, clients, config.seed)


def server_data(config: RunConfig) -> ServerData:
    """Return what the server of a federation holds; see ``split_directories`` for data that is divided already."""
    if config.data.name == "split":
        data, sharing = config.data, config.sharing
        fraction = sharing.slice_fraction
        return read_server_data(
            _root(data), data.image_size, config.federation.clients, fraction, config.seed, data.resize
        )
    return take_server_data(*prepare_data(config))


def client_data(config: RunConfig, client: int, place: str = "") -> Dataset:
    """Return the training images of one client.

    Args:
        config: of the run.
        client: its number.
        place: the client's directory, where it is not at ``data.root``; for data that is divided already.

    Raises:
        FedShieldError: the data is not there or damaged, or ``place`` has no part in this run.
    """
    if config.data.name == "split":
        root = whole_path(place) if place else _root(config.data)
        return client_images(root, config.data.image_size, client, config.data.resize)
    if place:
        raise FedShieldError(
            f"data.name = {config.data.name!r}: this client's own images, at data-path = {place!r}, would not be used; "
            "set data.name=split, or start the client without data-path"
        )
    splits, division = prepare_data(config)
    return splits.train.take(division.shards[client])


def test_data(config: RunConfig) -> Dataset:
    """Return the test set."""
    if config.data.name == "split":
        return server_test(_root(config.data), config.data.image_size, config.data.resize)
    return load_data(config.data.name, config.data.root, config.data.image_size, config.data.resize).test


def _root(data: DataConfig) -> Path:
    return whole_path(data.root)


def forget_data() -> None:
    """Look at the images again at the next call: they may have changed since another run in this process."""
    _prepare_data.cache_clear()
    forget_adopted()


@lru_cache(maxsize=1)
def _prepare_data(
    data: DataConfig, scheme: PartitionConfig, sharing: SharingConfig, clients: int, seed: int
) -> tuple[Splits, Partition]:
    splits = load_data(data.name, data.root, data.image_size, data.resize)
    if clients == 0:
        return splits, undivided(splits.train.labels, data.limit, data.validation_fraction, seed)
    named = scheme.scheme == "natural"
    owners = image_owners(data.name, data.root, data.image_size, scheme.by) if named else ()
    parameters = SchemeParameters(
        scheme.alpha, scheme.classes_per_client, seed, sizes=scheme.sizes, sigma=scheme.sigma, owners=owners
    )
    amounts = Amounts(data.limit, sharing.pool_fraction, sharing.slice_fraction, data.validation_fraction)
    labels, classes = splits.train.labels, len(splits.train.classes)
    return splits, kept_partition(labels, classes, clients, scheme.scheme, parameters, amounts)


def make_model(config: RunConfig, classes: int) -> nn.Module:
    """Build the run's network with its initial weights, on the CPU."""
    network = config.model.model_dump(exclude={"weights"})  # the server puts these in
    return build_model(**network, classes=classes, seed=config.seed, image_size=config.data.side)


def check_batches(config: RunConfig, model: nn.Module, alone: bool = False) -> None:
    """Check that the network can be trained on the smallest batch that will occur.

    Args:
        config: of the run.
        model: its network.
        alone: whether there is a single image to train on.

    Raises:
        FedShieldError: a batch will have one image, and the network takes two.
    """
    if (alone or config.train.batch_size == 1) and not trains_on_one(model, config.data.side):
        what = "there is one image to train on" if alone else "train.batch-size = 1"
        side = config.data.side
        raise FedShieldError(
            f"{what}: model.name = {config.model.name} needs two or more at {side}×{side} pixels, because batch "
            "normalization would have only one value; set train.batch-size=2 or more and give each client two "
            "images, or use another network"
        )


def check_user_code(config: RunConfig, keys: Collection[str] = USER_CODE_KEYS) -> None:
    """Check that the user's code that the configuration names is there, before anything is computed.

    Args:
        config: of the run.
        keys: whose code is about to run.

    Raises:
        FedShieldError: a file is missing, raises, or has no such function.
    """
    for key, reference in config.user_code_references():
        if key in keys:
            load_user_code(key, reference)


def threat_of(config: RunConfig) -> Threat:
    """Return the threat that training defends against."""
    attack = config.attack
    return Threat.from_255(attack.epsilon_255, attack.step_255, attack.steps, attack.norm)


def evaluation_threat(config: RunConfig) -> Threat:
    """Return the threat of an evaluation: the same ball; the number of steps comes from each attack's name."""
    return Threat.from_255(config.attack.epsilon_255, config.evaluate.step_255, norm=config.attack.norm)


def make_method(config: RunConfig, model: nn.Module, classes: int) -> TrainingMethod:
    """Build the run's training method on ``model``."""
    attack, train = config.attack, config.train
    if attack.fast:  # decided on the network as it is built, as the server does, which tells what comes of it
        why_not_folded(model, config.data.side, config.data.side)
    context = LossContext(
        attack=attack.name,
        threat=threat_of(config),
        label_smoothing=train.label_smoothing,
        noise_std=train.noise_std,
        beta=config.loss.beta,
        calibration=Calibration(config.loss.calfat_absent, config.loss.calfat_scale, config.loss.calfat_attack),
        margin_tau=config.loss.margin_tau,
        class_counts=(0,) * classes,
        mixture=attack.mixture,
        mixture_rate=attack.mixture_rate,
        fast=attack.fast,
        half=(fitting_precision() if train.attack_precision == "auto" else train.attack_precision) == "bfloat16",
        awp=WeightPerturbation(model, train.awp_gamma) if train.awp_gamma else None,
    )
    return TrainingMethod(config.loss.name, model, context)


def make_federated_method(config: RunConfig) -> Method:
    """Return what the run's clients do besides their local loss, and what the server makes of their replies.

    Raises:
        FedShieldError: as in ``build_method``.
    """
    numbers = config.method.model_dump(exclude={"name", "fine_tune_epochs"})
    able = adversarial_clients(config)
    context = MethodContext(config.federation.clients, able, config.train.label_smoothing, **numbers)
    return build_method(config.method.name, context)


def adversarial_clients(config: RunConfig) -> frozenset[int]:
    """Draw the clients that can afford adversarial training: the same in all rounds."""
    clients, share = config.federation.clients, config.federation.adversarial_clients
    return frozenset(rng_for(config.seed, "able").permutation(clients)[: round(share * clients)].tolist())


def make_natural_method(config: RunConfig, model: nn.Module, classes: int) -> TrainingMethod:
    """Build on ``model`` what clients train by that cannot afford adversarial training: the natural cross-entropy."""
    context = LossContext("none", threat_of(config), config.train.label_smoothing, 0.0, class_counts=(0,) * classes)
    return TrainingMethod("pgd-at", model, context)


def make_trainer(model: nn.Module, config: RunConfig, method: TrainingMethod, recordable: bool = True) -> Trainer:
    """Return the trainer of ``model``; on a GPU it records a batch once, if network and methods allow it.

    Args:
        model: on the device on which to train.
        config: of the run.
        method: of training on this model.
        recordable: whether the method of the federation decides nothing on the CPU.
    """
    record = config.train.cuda_graphs and method.recordable and recordable and config.model.name in MODELS
    return Trainer(model, record, method.awp)


def training_plan(config: RunConfig, epochs: int, round_or_epoch: int, total: int) -> TrainingPlan:
    """Return how to train in one round, or in one epoch where there is no federation.

    Args:
        config: of the run.
        epochs: passes over the images in this round, 0 or more.
        round_or_epoch: in [1, ``total``].
        total: rounds, or epochs, of the whole run.
    """
    train = config.train
    return TrainingPlan(
        epochs=epochs,
        batch_size=train.batch_size,
        learning_rate=learning_rate(
            train.schedule, train.learning_rate, round_or_epoch, total, milestones=train.milestones, warmup=train.warmup
        ),
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        augment=train.augment,
        flip=config.flips,
        precision=train.precision,
    )
