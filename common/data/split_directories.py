"""A dataset divided into directories, one for each party of a federation, so that no party sees another's images.

    server/split.json                    classes, and how many images of each class each client has
    server/{pool,validation,test}/<class>/<row>.png
    client-3/split.json                  classes, and whose directory it is
    client-3/train/<class>/<row>.png

A part lies in the order of its file names, which are rows of the dataset that was divided: so a run on these
directories sees the same images in the same order as a simulation that divides the dataset itself.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.data.array_cache import Arrays, find_arrays, keep_arrays
from common.data.datasets import Dataset, Splits, tell_left_out
from common.data.image_folders import decode_images, is_litter, list_images, listing_digest
from common.data.partition import Indices, Partition, balanced_part
from common.data.pictures import SQUASH, resized
from common.data.server_data import ServerData, class_counts, describe_partition
from common.errors import FedShieldError, explain_os_errors
from common.files import create_file, read_json, replace_file, replace_json
from common.links import refuse_links
from common.paths import cache_dir

log = logging.getLogger("fedshield")

MANIFEST = "split.json"
_BEGUN = "split.begun"  # holds what identifies the division, until it is whole
_HINT = "make it with fedshield split-data, or say where it is: data.root, or a client's data-path"


def write_split(splits: Splits, division: Partition, folder: Path) -> list[Path]:
    """Write one directory for the server and one for each client into ``folder``; keep them if they are there already.

    A division that was interrupted is completed.

    Returns:
        The directories, the server's first.

    Raises:
        FedShieldError: the folder holds other data, a part of it, or a link that leaves it; or it cannot be written.
    """
    holders = ("server", *(f"client-{client}" for client in range(len(division.shards))))
    places = [folder / name for name in holders]
    refuse_links(folder)
    with explain_os_errors(folder):
        if _begin(places, _content(splits, division)):
            _write_parties(splits, division, places)
        else:
            log.info("%s: this division already exists", folder)
    return places


def _begin(places: list[Path], content: str) -> bool:
    """Return whether there is something to write; what begins is marked, so that it can be told from others' data."""
    server = places[0]
    if (server / _BEGUN).exists():
        if (server / _BEGUN).read_bytes() != content.encode():
            raise _foreign(server, "a part of other data")
        return True
    if there := [place for place in places if (place / MANIFEST).exists()]:
        if there != places or read_json(server / MANIFEST, _HINT).get("content") != content:
            raise _foreign(there[0])
        return False
    parts = (*(server / name for name in ("pool", "validation", "test")), *(place / "train" for place in places[1:]))
    if taken := [part for part in parts if part.exists()]:
        raise _foreign(taken[0])
    server.mkdir(parents=True, exist_ok=True)
    replace_file(server / _BEGUN, content.encode())
    return True


def _foreign(place: Path, what: str = "other data") -> FedShieldError:
    return FedShieldError(f"{place}: contains {what}; choose another --out, or remove what is there")


def _write_parties(splits: Splits, division: Partition, places: list[Path]) -> None:
    server, *clients = places
    classes = list(splits.train.classes)
    for name, rows in {"pool": division.pool, "validation": division.validation}.items():
        _write_part(splits.train, rows, server / name)
    _write_part(splits.test, np.arange(len(splits.test.labels)), server / "test")
    for client, (place, rows) in enumerate(zip(clients, division.shards, strict=True)):
        _write_part(splits.train, rows, place / "train")
        replace_json(place / MANIFEST, {"holder": "client", "client": client, "classes": classes})
    described = describe_partition(splits.train, division)
    told = {key: described[key] for key in ("clients", "used", "available", "available-by-class") if key in described}
    content = (server / _BEGUN).read_bytes().decode()
    replace_json(server / MANIFEST, {"holder": "server", "classes": classes, **told, "content": content})
    (server / _BEGUN).unlink()


def _content(splits: Splits, division: Partition) -> str:
    """Return what differs when any party would hold other images."""
    digest = hashlib.sha256(json.dumps(splits.train.classes).encode())
    for data in (*map(splits.train.take, (*division.shards, division.pool, division.validation)), splits.test):
        digest.update(data.images.tobytes() + data.labels.tobytes() + b"|")
    return digest.hexdigest()


def _write_part(data: Dataset, rows: Indices, folder: Path) -> None:
    for name in data.classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for row in rows.tolist():
        content = io.BytesIO()
        Image.fromarray(data.images[row].transpose(1, 2, 0)).save(content, "PNG")
        create_file(folder / data.classes[data.labels[row]] / f"{row:08d}.png", content.getvalue())


def read_server_data(
    root: Path, image_size: int, clients: int, shared_fraction: float, seed: int, resize: str = SQUASH
) -> ServerData:
    """Read the server's directory.

    Args:
        root: the directory, or the folder that has it as ``server``.
        image_size: side of the images, in pixels; others are resized.
        clients: how many the run has.
        shared_fraction: share of the pool that every client receives, in [0, 1].
        seed: chooses that share, as in a simulation.
        resize: how images become square, as in ``decode_images``.

    Raises:
        FedShieldError: the directory is missing, damaged, or made for another number of clients.
    """
    place, manifest = _manifest(root, "server")
    classes = _classes(place, manifest)
    counts = manifest.get("clients")
    if not isinstance(counts, list) or any(not _is_counts(row, len(classes)) for row in counts):
        raise FedShieldError(f"{place / MANIFEST}: clients: write images of each class for each client; {_HINT}")
    if len(counts) != clients:
        raise FedShieldError(
            f"federation.clients = {clients}: {place / MANIFEST} is for {len(counts)} clients; set "
            f"federation.clients={len(counts)}, or split the data again"
        )
    test = server_test(place, image_size, resize)
    pool, validation = (_read_part(place / name, classes, image_size, resize) for name in ("pool", "validation"))
    if shared_fraction > 0 and len(pool.labels) == 0:
        raise FedShieldError(
            f"sharing.fraction = {shared_fraction}: {place / 'pool'} has no images to share; set sharing.fraction=0"
        )
    shared = pool.take(balanced_part(np.arange(len(pool.labels)), pool.labels, shared_fraction, seed, "shared"))
    there = manifest.get("available-by-class")
    described = {
        # If a directory was made by hand, it is not known how many images there were.
        **{key: manifest[key] for key in ("used", "available") if type(manifest.get(key)) is int},
        **({"available-by-class": there} if _is_counts(there, len(classes)) else {}),
        "classes": list(classes),
        "clients": counts,
        "pool": class_counts(pool),
        "shared": class_counts(shared),
        **({"validation": class_counts(validation)} if len(validation.labels) else {}),
        "test": class_counts(test),
        "sha256": _digest(counts, pool, validation),
    }
    return ServerData(test, shared, validation, pool, described)


def server_test(root: Path, image_size: int, resize: str = SQUASH) -> Dataset:
    """Read the test set in the server's directory; the arguments are those of ``read_server_data``."""
    place, manifest = _manifest(root, "server")
    test = _read_part(place / "test", _classes(place, manifest), image_size, resize)
    if len(test.labels) == 0:
        raise FedShieldError(f"{place / 'test'}: no images in it; the server evaluates on them")
    return test


def client_images(root: Path, image_size: int, client: int, resize: str = SQUASH) -> Dataset:
    """Read one client's training images.

    Args:
        root: its directory, or the folder that has it as ``client-N``.
        image_size: as in ``read_server_data``.
        client: its number.
        resize: as in ``read_server_data``.

    Raises:
        FedShieldError: the directory is missing, damaged, empty or another client's; the message names the file.
    """
    place, manifest = check_client_place(root, client)
    own = _read_part(place / "train", _classes(place, manifest), image_size, resize)
    if len(own.labels) == 0:
        raise FedShieldError(f"{place / 'train'}: no images in it; this client has nothing to train on")
    return own


def check_client_place(root: Path, client: int) -> tuple[Path, dict[str, Any]]:
    """Return a client's directory and its manifest; the arguments are those of ``client_images``.

    Raises:
        FedShieldError: there is no manifest, or it is another client's.
    """
    place, manifest = _manifest(root, f"client-{client}")
    if manifest.get("client") != client:
        raise FedShieldError(
            f"{place / MANIFEST}: client = {manifest.get('client')!r}, but this node's partition-id is {client}; give "
            "it its own directory"
        )
    return place, manifest


def _manifest(root: Path, holder: str) -> tuple[Path, dict[str, Any]]:
    with explain_os_errors(root):
        place = root / holder if (root / holder / MANIFEST).is_file() else root
    return place, read_json(place / MANIFEST, _HINT)


def _classes(place: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    classes = manifest.get("classes")
    if not isinstance(classes, list) or len(set(map(str, classes))) < max(2, len(classes)):
        raise FedShieldError(f"{place / MANIFEST}: classes = {classes!r}: write different names; {_HINT}")
    if odd := [name for name in map(str, classes) if not name or is_litter(name) or Path(name).name != name]:
        raise FedShieldError(
            f"{place / MANIFEST}: classes: {odd[0]!r} cannot be the name of a class's folder; rename it"
        )
    return tuple(map(str, classes))


def _is_counts(row: object, classes: int) -> bool:
    return (
        isinstance(row, list)
        and len(row) == classes
        and all(type(count) is int and 0 <= count < 10**15 for count in row)
        and sum(row) > 0
    )


def _read_part(folder: Path, classes: tuple[str, ...], size: int, resize: str) -> Dataset:
    """Return the images of a part, in the order of their file names; none where there is no such folder."""
    left_out: list[str] = []
    groups = list_images(folder, left_out) if os.path.lexists(folder) else {}
    if unknown := sorted(set(groups) - set(classes)):
        raise FedShieldError(f"{folder / unknown[0]}: not one of the classes in {MANIFEST}; rename or remove it")
    named = [(Path(file.path).name, file.path, classes.index(name)) for name, files in groups.items() for file in files]
    entries = [(path, label) for _, path, label in sorted(named)]
    key = listing_digest(f"{folder} {resized(size, resize)} {classes}", groups.values())
    place = cache_dir() / "parts" / key

    def decode() -> Arrays:
        tell_left_out(left_out)
        images = decode_images([path for path, _ in entries], size, resize)
        return {"images": images, "labels": np.array([label for _, label in entries], dtype=np.int64)}

    def find() -> Arrays | None:
        return find_arrays(place, ("images", "labels"))

    kept = find() or keep_arrays(place, decode, find)
    return Dataset(kept["images"], kept["labels"], classes)


def _digest(counts: list[list[int]], *parts: Dataset) -> str:
    """Return what differs when a client has other images, as far as the server knows, or the server itself has."""
    digest = hashlib.sha256(json.dumps(counts).encode())
    for part in parts:
        digest.update(np.ascontiguousarray(part.images).tobytes() + part.labels.tobytes() + b"|")
    return digest.hexdigest()
