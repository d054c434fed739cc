"""Whose each training image is, where the data says so: the clients of ``partition.scheme = natural``."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.data import huggingface
from common.data.array_cache import Arrays, find_arrays, keep_arrays
from common.data.datasets import data_key
from common.data.image_folders import list_images
from common.errors import FedShieldError
from common.paths import cache_dir, whole_path


def image_owners(name: str, root: str, image_size: int, column: str) -> tuple[int, ...]:
    """Return the number of each training image's owner, in the order of ``load_data``; owners are sorted by name.

    Args:
        name: of the dataset, as in ``load_data``.
        root: as there.
        image_size: as there.
        column: of a Hugging Face dataset; for an image folder, owners are the folders within that of each class.

    Raises:
        FedShieldError: the data does not say whose an image is.
    """
    if name == "folder":
        return _numbers(_of_folder(whole_path(root) / "train"))
    key = hashlib.sha256(f"{data_key(name, root, image_size)} {column}".encode()).hexdigest()[:16]
    place = cache_dir() / "owners" / key

    def find() -> Arrays | None:
        return find_arrays(place, ("owners",))

    def make() -> Arrays:
        return {"owners": np.array(_numbers(huggingface.read_column(name, whole_path(root), column)))}

    return tuple((find() or keep_arrays(place, make, find))["owners"].tolist())


def _of_folder(train: Path) -> list[str]:
    owners = []
    for kind, files in sorted(list_images(train).items()):
        for file in files:
            owner, *inside = Path(file.path).relative_to(train / kind).parts
            if not inside:
                raise FedShieldError(
                    f"{file.path}: in no owner's folder; partition.scheme = natural needs CLASS/OWNER/IMAGE in {train}"
                )
            owners.append(owner)
    return owners


def _numbers(owners: Sequence[str]) -> tuple[int, ...]:
    return tuple(np.unique(np.array(owners), return_inverse=True)[1].tolist())
