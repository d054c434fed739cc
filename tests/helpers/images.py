"""Folders of images."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_folder(root: Path, size: int = 16, suffix: str = "png", images: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", images), ("test", 2)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.{suffix}")
    return root
