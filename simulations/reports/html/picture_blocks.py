"""The stored examples of an evaluation: adversarial images, and the predictions for each class.

Where nothing is kept, there are no arrays, and nothing is shown.
"""

import numpy as np

from simulations.reports.figures.evaluation_figures import Arrays, confusion_figure, data_uri, magnified
from simulations.reports.html.page import Block, Gallery, Picture, charts


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
        Picture(*map(data_uri, parts), *(names[number] for number in numbers))
        for parts, numbers in zip(zip(images, added, adversarial, strict=True), zip(*told, strict=True), strict=True)
    ]
    caption = (
        f"Attack: {arrays['example_attack']}; it changes no pixel by more than {largest:.3g}/255, shown {factor} times "
        "as large. The images are chosen: classified correctly before the attack, those that it breaks first."
    )
    return [Gallery(pictures, caption)]


def predictions(arrays: Arrays) -> list[Block]:
    """Return the predictions for the images of each class under the last of the attacks."""
    return charts(confusion_figure(arrays, "")) if arrays else []
