"""The very images of a run: which of them its model was trained on, and which it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.data.partition import Indices
from common.data.server_data import class_counts, take_server_data
from common.errors import FedShieldError
from common.factory import client_data, prepare_data, server_data
from server.measures import subset_of
from server.run_directory.reader import (
    CENTRALIZED,
    DEPLOYED,
    read_described_partition,
    read_kind,
    read_metrics,
    read_predictions,
    read_summary,
)

_COMPARED = ("classes", "available", "used", "clients", "pool", "shared", "validation", "test", "sha256")


@dataclass(frozen=True)
class Group:
    """Images that the model was trained on.

    Attributes:
        what: they are, in a word.
        rows: of ``RunImages.train``, increasing.
    """

    what: str
    rows: Indices


@dataclass(frozen=True)
class RunImages:
    """The images of a run, as far as this machine has them.

    Attributes:
        train: all but the test set; nobody was trained on those of no group.
        test: nobody was trained on these.
        groups: ``pool`` and ``clients``, those of them that have an image.
        notes: what is missing, and why.
    """

    train: Dataset
    test: Dataset
    groups: dict[str, Group]
    notes: tuple[str, ...]

    def take(self, rows: Indices) -> Dataset:
        """Return images by increasing row, where the test set follows the others."""
        cut = int(np.searchsorted(rows, len(self.train.labels)))
        return _join([self.train.take(rows[:cut]), self.test.take(rows[cut:] - len(self.train.labels))])


def run_images(run_dir: Path, config: RunConfig, last: int) -> RunImages:
    """Read the images of a run again, and check that they are the same.

    Args:
        run_dir: absolute.
        config: of the run.
        last: round or epoch of the model: clients that first took part later have not trained it.

    Raises:
        FedShieldError: the images are not there, are others than those of the run, or were changed.
    """
    described = read_described_partition(run_dir)
    if not described:
        raise FedShieldError(f"{run_dir / 'partition.json'}: not found; without it nobody knows who had which image")
    if read_kind(run_dir) == CENTRALIZED:
        return _centralized(run_dir, config, described)
    trained = _who_trained(run_dir, config, last)
    find = _split if config.data.name == "split" else _divided
    return find(run_dir, config, described, trained)


def _centralized(run_dir: Path, config: RunConfig, described: dict[str, Any]) -> RunImages:
    splits, division = prepare_data(config, centralized=True)
    _check(run_dir, config, described, take_server_data(splits, division).described_partition, splits.test)
    group = Group("all training images", division.shards[0])
    return RunImages(splits.train, splits.test, {"clients": group}, ())


def _divided(run_dir: Path, config: RunConfig, described: dict[str, Any], trained: Sequence[int]) -> RunImages:
    """Divide the dataset as the run did."""
    splits, division = prepare_data(config)
    _check(run_dir, config, described, take_server_data(splits, division).described_partition, splits.test)
    pool = division.pool if config.sharing.warm_start_epochs else division.shared
    own = np.sort(np.concatenate([division.shards[client] for client in trained]))
    return _grouped(config, splits.train, splits.test, pool, own, [])


def _split(run_dir: Path, config: RunConfig, described: dict[str, Any], trained: Sequence[int]) -> RunImages:
    """Read the server's directory, and the clients' if they are on this machine."""
    server = server_data(config)
    _check(run_dir, config, described, server.described_partition, server.test)
    pool, sharing = server.pool, config.sharing
    rows = np.arange(len(pool.labels))
    if not sharing.warm_start_epochs:
        rows = server.slice(sharing.slice_fraction, config.seed)
    if read_kind(run_dir) == DEPLOYED:
        notes = ["the clients' own images are with the clients, so only those of the pool were asked about"]
        return _grouped(config, _join([pool, server.validation]), server.test, rows, rows[:0], notes)
    own = [client_data(config, client) for client in trained]
    for client, data in zip(trained, own, strict=True):
        if class_counts(data) != described["clients"][client]:
            raise _changed(run_dir, config, f"client {client} has other numbers of images of each class")
    train = _join([pool, server.validation, *own])
    first = len(pool.labels) + len(server.validation.labels)
    return _grouped(config, train, server.test, rows, np.arange(first, len(train.labels)), [])


def _grouped(
    config: RunConfig, train: Dataset, test: Dataset, pool: Indices, own: Indices, notes: list[str]
) -> RunImages:
    groups: dict[str, Group] = {}
    if len(pool):
        warm = config.sharing.warm_start_epochs
        groups["pool"] = Group("pool" if warm else "pool, shared part", pool)
    else:
        notes = [*notes, "no image of the pool was shared, so none of it was asked about"]
    if len(own):
        groups["clients"] = Group("clients' own", own)
    return RunImages(train, test, groups, tuple(notes))


def _who_trained(run_dir: Path, config: RunConfig, last: int) -> list[int]:
    """Return the clients whose replies were taken up to a round; all, if an earlier version has not stored that."""
    lines = [line for line in read_metrics(run_dir) if line["round"] <= last]
    named = {int(client) for line in lines for client in line.get("clients", {})}
    everybody = range(config.federation.clients)
    return sorted(named & {*everybody}) or list(everybody)


def _check(run_dir: Path, config: RunConfig, there: dict[str, Any], here: dict[str, Any], test: Dataset) -> None:
    """Check that images and their division are those of the run; of the test images also what they show.

    Raises:
        FedShieldError: one line with the first difference.
    """
    for key in _COMPARED:
        if key in there and there[key] != here.get(key, []):
            numbers = isinstance(there[key], int)
            what = f"{key} = {there[key]} there, {here.get(key)} here" if numbers else f"{key} is another here"
            raise _changed(run_dir, config, what)
    figures = read_summary(run_dir).get("final") or {}
    kept = read_predictions(run_dir, figures).get("images")
    if kept is not None and str(kept) != subset_of(test, figures["n"]).digest():
        raise _changed(run_dir, config, "test images of the run's last evaluation have other pixels here")


def _changed(run_dir: Path, config: RunConfig, what: str) -> FedShieldError:
    return FedShieldError(
        f"{run_dir / 'partition.json'}: {what}: the images at data.root = {config.data.root} are not those of the run, "
        "or were changed or divided otherwise; give its images, with --set data.root=DIR"
    )


def _join(parts: Sequence[Dataset]) -> Dataset:
    images, labels = ([getattr(part, name) for part in parts] for name in ("images", "labels"))
    return Dataset(np.concatenate(images), np.concatenate(labels), parts[0].classes)
