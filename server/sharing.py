"""What is sent of the pool, its images or what is made of them (``sharing.kind``), and how near it brings the clients.

It is made of the slice of the pool that ``sharing.fraction`` chooses, and of no other image of the pool; only
``other-dataset`` takes images from elsewhere. The server's own uses of the pool (warm start, rules that judge by it)
keep all of its real images.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load, save

from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.data.server_data import ServerData, class_counts
from common.errors import FedShieldError, explain_os_errors
from common.files import replace_file
from common.paths import whole_path
from common.sharing.alignment import Distance, feature_distance, label_distance, tell_alignment
from common.sharing.averaged import averaged
from common.sharing.distilled import BATCH, distilled
from common.sharing.noised import noised
from common.sharing.other_dataset import images_of_classes, other_dataset
from server.run_directory.reader import read_described_partition

log = logging.getLogger("fedshield")

FILE = "shared.safetensors"


def check_sharing(config: RunConfig, data: ServerData) -> None:
    """Check that what is to be sent can be made, before clients are waited for.

    Args:
        config: of the run.
        data: what the server holds.

    Raises:
        FedShieldError: a class has too few images, or ``sharing.root`` lacks some.
    """
    sharing, classes = config.sharing, data.test.classes
    if sharing.fraction == 0:
        return
    if sharing.kind == "other-dataset":
        images_of_classes(whole_path(sharing.root), classes)
    for kind, key, needed in (("averaged", "average", sharing.average), ("distilled", "per-class", sharing.per_class)):
        fewest, name = min(zip(class_counts(data.shared), classes, strict=True))
        if sharing.kind == kind and fewest < needed:
            few = f"{fewest} image{'' if fewest == 1 else 's'}"
            raise FedShieldError(
                f"sharing.{key} = {needed}: sharing.fraction = {sharing.fraction:g} takes only {few} of class {name} "
                f"from the pool; lower sharing.{key} to {max(1, fewest)} or less, or raise sharing.fraction or "
                "sharing.pool-fraction"
            )


def with_shared(config: RunConfig, data: ServerData, run_dir: Path, device: torch.device) -> ServerData:
    """Return what the server holds, where ``shared`` is what it sends; it is measured, logged and described.

    Args:
        config: of the run.
        data: with the slice of the pool as ``shared``.
        run_dir: of the run. Distilled images are kept there: another processor would make others when the run goes on.
        device: to compute on.

    Raises:
        FedShieldError: images cannot be read.
    """
    if (kind := config.sharing.kind) == "images":
        sent = data.shared
    elif config.sharing.fraction == 0:
        return data
    elif kind == "distilled":
        kept = _kept(run_dir, data.test.classes) if config.results.resume else None
        sent = kept or _distill(config, data.shared, run_dir, device)
    else:
        sent = _made(config, data)
    if not len(sent.labels):
        return data
    alignment = _alignment(data, sent, device)
    told = {name: distance.as_json() for name, distance in alignment.items()}
    log.info("Shared: %s images (sharing.kind = %s); %s", f"{len(sent.labels):,}", kind, tell_alignment(told))
    described = {
        **data.described_partition,
        "shared": class_counts(sent),
        **({} if kind == "images" else {"shared-kind": kind, "shared-sha256": sent.digest()}),
        "alignment": told,
    }
    return replace(data, shared=sent, described_partition=described)


def _made(config: RunConfig, data: ServerData) -> Dataset:
    sharing, seed = config.sharing, config.seed
    if sharing.kind == "noised":
        return noised(data.shared, sharing.noise, seed)
    if sharing.kind == "averaged":
        return averaged(data.shared, sharing.average, seed)
    size = config.data.side
    return other_dataset(whole_path(sharing.root), data.test.classes, size, sharing.fraction, seed, config.data.resize)


def _distill(config: RunConfig, shared: Dataset, run_dir: Path, device: torch.device) -> Dataset:
    sharing = config.sharing
    count = sharing.per_class * len(shared.classes)
    passes = sharing.steps * (3 * count + sum(min(BATCH, images) for images in class_counts(shared)))
    log.info(
        "distilling %d images of the pool into %d, in %d steps: %s passes of an image through a small network",
        *(len(shared.labels), count, sharing.steps, f"{passes:,}"),
    )
    sent = distilled(shared, sharing.per_class, sharing.steps, config.seed, device)
    replace_file(run_dir / FILE, save({"images": sent.images, "labels": sent.labels}))
    return sent


def _kept(run_dir: Path, classes: tuple[str, ...]) -> Dataset | None:
    """Return the images that the run has sent before; None where it has not begun to."""
    path, digest = run_dir / FILE, read_described_partition(run_dir).get("shared-sha256")
    if digest is None or not path.exists():
        return None
    with explain_os_errors(path):
        content = path.read_bytes()
    try:
        arrays = load(content)
        sent = Dataset(arrays["images"], arrays["labels"], classes)
    except Exception as error:
        raise _damaged(path) from error
    if sent.digest() != digest:
        raise _damaged(path)
    return sent


def _damaged(path: Path) -> FedShieldError:
    return FedShieldError(f"{path}: damaged, or of another run; restore it, or start a new run")


def _alignment(data: ServerData, sent: Dataset, device: torch.device) -> dict[str, Distance]:
    """Return how far apart the clients are with and without what is sent; in features, if there are images to compare.

    Real images are the pool's or, where there is none, those for validation.
    """
    counts = np.array(data.described_partition["clients"], np.int64)
    found = {"labels": label_distance(counts, np.array(class_counts(sent)))}
    real = data.pool if len(data.pool.labels) else data.validation
    if len(real.labels):
        found["features"] = feature_distance(counts, sent, real, device)
    return found
