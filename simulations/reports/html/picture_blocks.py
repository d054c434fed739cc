"""What an evaluation has kept to be looked at: adversarial images, and who was taken for whom.

Where nothing is kept, there are no arrays, and nothing is shown.
"""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simulations.reports.figures.evaluation_figures import Arrays, confusion, magnified
from simulations.reports.html import charts
from simulations.reports.html.page import Block, Chart, Gallery, Picture


def gallery(arrays: Arrays) -> list[Block]:
    """Return the adversarial images of an evaluation; nothing where there are none."""
    if not arrays or not len(arrays["example_images"]):
        return []
    names = [str(name) for name in arrays["classes"]]
    images = arrays["example_images"].astype(np.float64) / 255
    adversarial = arrays["example_adversarial"].astype(np.float64)
    added, factor, largest = magnified(images, adversarial)
    told = (arrays[f"example_{name}"] for name in ("labels", "natural", "attacked"))
    pictures = [
        Picture(*map(_data_uri, parts), *(names[number] for number in numbers))
        for parts, numbers in zip(zip(images, added, adversarial, strict=True), zip(*told, strict=True), strict=True)
    ]
    caption = (
        f"Attack: {arrays['example_attack']}; it changes no pixel by more than {largest:.3g}/255, shown {factor} times "
        "as large. The images are chosen: classified correctly before the attack, those that it breaks first."
    )
    return [Gallery(pictures, caption)]


def predictions(arrays: Arrays) -> list[Block]:
    """Return what the images of each class are taken for under the last of the attacks."""
    if not arrays:
        return []
    names = [str(name) for name in arrays["classes"]]
    attack, counts = confusion(arrays)
    when = "without attack" if attack == "natural" else f"under {attack}"
    right = f"{counts.trace():,} of n = {counts.sum():,}"
    caption = f"What the model takes the test images for {when}: {right} are classified correctly."
    table = dict(zip(names, counts.tolist(), strict=True))
    return [Chart(charts.shares(table, names, "predicted", "true class"), caption)]


def _data_uri(pixels: NDArray[Any]) -> str:
    """Return a picture, [3,H,W] in [0, 1], as a PNG in a data URI."""
    file = io.BytesIO()
    bytes_ = (255 * pixels.clip(0, 1)).round().astype(np.uint8)
    Image.fromarray(bytes_.transpose(1, 2, 0)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
