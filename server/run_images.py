"""The very images of a run: which of them its model was trained on, and which it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.data.partition import Indices
from common.data.server_data import ServerData, class_counts, take_server_data
from common.errors import FedShieldError
from common.factory import client_data, prepare_data, server_data
from server.diagnosis.diagnosis import Lines
from server.measures import subset_of
from server.repair.rounds import limits_of, treatment_after
from server.repair.treatment import Treatment
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
    lines = [line for line in read_metrics(run_dir) if line["round"] <= last]
    trained, sent = _who_trained(config, lines), _share_sent(config, lines)
    find = _split if config.data.name == "split" else _divided
    return find(run_dir, config, described, trained, sent)


def _centralized(run_dir: Path, config: RunConfig, described: dict[str, Any]) -> RunImages:
    splits, division = prepare_data(config, centralized=True)
    _check(run_dir, config, described, take_server_data(splits, division).described_partition, splits.test)
    group = Group("all training images", division.shards[0])
    return RunImages(splits.train, splits.test, {"clients": group}, ())


def _divided(
    run_dir: Path, config: RunConfig, described: dict[str, Any], trained: Sequence[int], sent: float
) -> RunImages:
    """Divide the dataset as the run did."""
    splits, division = prepare_data(config)
    server = take_server_data(splits, division)
    _check(run_dir, config, described, server.described_partition, splits.test)
    pool = np.sort(division.pool[_seen_of_the_pool(config, server, sent)])
    own = np.sort(np.concatenate([division.shards[client] for client in trained]))
    return _grouped(config, splits.train, splits.test, pool, own, [])


def _split(
    run_dir: Path, config: RunConfig, described: dict[str, Any], trained: Sequence[int], sent: float
) -> RunImages:
    """Read the server's directory, and the clients' if they are on this machine."""
    server = server_data(config)
    _check(run_dir, config, described, server.described_partition, server.test)
    pool, rows = server.pool, _seen_of_the_pool(config, server, sent)
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


def _seen_of_the_pool(config: RunConfig, server: ServerData, sent: float) -> Indices:
    """Return the rows of the pool that the model was trained on: those that were sent, or all by a warm start."""
    if config.sharing.warm_start_epochs:
        return np.arange(len(server.pool.labels))
    return server.slice(sent, config.seed)


def _share_sent(config: RunConfig, lines: Lines) -> float:
    """Return the largest share of the pool that the clients have received up to the last of the lines."""
    before = treatment_after(lines[:-1], limits_of(config)) if config.repair.enabled else Treatment()
    return max(before.sharing, config.sharing.slice_fraction)


def _who_trained(config: RunConfig, lines: Lines) -> list[int]:
    """Return the clients whose replies were taken in these rounds; all, if an earlier version has not stored that."""
    named = {int(client) for line in lines for client in line.get("clients", {})}
    everybody = range(config.federation.clients)
    return sorted(named & {*everybody}) or list(everybody)


def _check(run_dir: Path, config: RunConfig, there: dict[str, Any], here: dict[str, Any], test: Dataset) -> None:
    """Check that images and their division are those of the run; of the test images also what they show.

    Raises:
        FedShieldError: one line with the first difference.
    """
    # What was made of the slice, or taken from elsewhere, is not in the pool; "sha256" is of the slice itself.
    made = {"shared"} if "shared-kind" in there else set()
    for key in _COMPARED:
        if key in there.keys() - made and there[key] != here.get(key, []):
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
