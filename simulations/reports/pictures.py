"""What a run's last evaluation has kept to be looked at: adversarial images, and who was taken for whom."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.kept import Kept
from simulations.evaluation_plots import magnified, strongest
from simulations.reports import charts
from simulations.reports.page import Block, Chart, Gallery, Picture


def gallery(run_dir: Path) -> list[Block]:
    """Return the adversarial images of the last evaluation; nothing where there are none."""
    arrays = Kept(run_dir / "evaluations").load("latest")
    if arrays is None or not len(arrays["example_images"]):
        return []
    names = [str(name) for name in arrays["classes"]]
    images = arrays["example_images"].astype(np.float64) / 255
    adversarial = arrays["example_adversarial"].astype(np.float64)
    added, factor = magnified(images, adversarial)
    told = (arrays[f"example_{name}"] for name in ("labels", "natural", "attacked"))
    pictures = [
        Picture(*map(_data_uri, parts), *(names[number] for number in numbers))
        for parts, numbers in zip(zip(images, added, adversarial, strict=True), zip(*told, strict=True), strict=True)
    ]
    largest = 255 * float(np.abs(adversarial - images).max())
    caption = (
        f"Attack: {arrays['example_attack']}; it changes no pixel by more than {largest:.3g}/255, shown {factor} times "
        "as large. The images are chosen: classified correctly before the attack, those that it breaks first."
    )
    return [Gallery(pictures, caption)]


def confusion(run_dir: Path) -> list[Block]:
    """Return what the images of each class are taken for under the attack that hurts most."""
    arrays = Kept(run_dir / "evaluations").load("latest")
    if arrays is None:
        return []
    names, labels = [str(name) for name in arrays["classes"]], arrays["labels"]
    attack, predictions = strongest(arrays)
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    rows = [
        {"across": names[taken], "down": names[true], "count": int(count), "share": count / max(1, counts[true].sum())}
        for (true, taken), count in np.ndenumerate(counts)
    ]
    when = "without attack" if attack == "natural" else f"under {attack}"
    right = int((labels == predictions).sum())
    caption = (
        f"What the model takes the test images for {when}: {right:,} of n = {len(labels):,} are classified correctly."
    )
    return [Chart(charts.shares(rows, "predicted", "true class", names, names), caption)]


def _data_uri(pixels: NDArray[Any]) -> str:
    """Return a picture, [3,H,W] in [0, 1], as a PNG in a data URI."""
    file = io.BytesIO()
    bytes_ = (255 * pixels.clip(0, 1)).round().astype(np.uint8)
    Image.fromarray(bytes_.transpose(1, 2, 0)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
