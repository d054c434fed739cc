"""Figures of an evaluation: robust accuracy over epsilon, predictions under attack, adversarial images."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.attacks.threat import L2, LINF, radius
from common.errors import FedShieldError
from common.evaluation.results import Evaluation
from server.run_directory.reader import read_evaluations, read_kind, read_predictions
from simulations.reports.accuracy import chance, say_chance
from simulations.reports.figures.charts import pictures, shares
from simulations.reports.figures.files import save_all
from simulations.reports.figures.line_charts import top_of, with_chance, with_interval, with_mark
from simulations.reports.figures.run_figures import height_of, scaled
from simulations.reports.figures.style import WIDTH, Figure, Panel, Record

Arrays = Mapping[str, NDArray[Any]]

_FACTORS = (1, 2, 5, 10, 20, 50, 100, 200)
_SIDE = 54  # pixels of an image


def plot_evaluation(run_dir: Path) -> list[Path]:
    """Draw a run's last evaluation into its ``figures/``, replacing earlier ones.

    ``confusion``: under the last of the attacks; ``examples``: images, what the attack adds, and both predictions;
    ``epsilon``: robust accuracy over epsilon, if the last ``fedshield evaluate`` was asked for it.

    Args:
        run_dir: with ``evaluations.jsonl``, and the predictions that its last line names.

    Returns:
        The files, each figure's PNG before its SVG.

    Raises:
        FedShieldError: there is no evaluation.
    """
    return save_all(evaluation_figures(run_dir), run_dir / "figures", ("confusion", "examples", "epsilon"))


def evaluation_figures(run_dir: Path) -> dict[str, Figure]:
    """Return the figures that ``plot_evaluation`` saves, by name."""
    record: Mapping[str, Any] = next(reversed(read_evaluations(run_dir)), {})
    if not (arrays := read_predictions(run_dir, record)):
        raise FedShieldError(f"{run_dir}: no evaluation to draw; run: fedshield evaluate {run_dir}")
    figures = {"confusion": confusion_figure(arrays, run_dir.name)}
    if len(arrays["example_images"]):
        figures["examples"] = examples_figure(arrays, run_dir.name)
    if record.get("curve"):
        figures["epsilon"] = curve_figure(record, record["n"], run_dir.name, read_kind(run_dir).unit)
    return figures


def curve_figure(record: Record, n: int, title: str, unit: str) -> Figure:
    """Draw robust accuracy at each epsilon, with the 95 % interval of the test sample.

    Args:
        record: an evaluation with a ``curve``.
        n: test images of the curve.
        title: of the run.
        unit: ``round`` or ``epoch``.
    """
    points = sorted(record["curve"], key=lambda point: float(point["epsilon-255"]))
    attack = points[0].get("attack", "PGD")
    rows = [{"epsilon": point["epsilon-255"], "measure": attack, **scaled(point), "n": n} for point in points]
    guessing = chance(record) or (1 / len(names) if (names := record.get("classes")) else None)
    top = top_of([row["high"] for row in rows], guessing)
    norm = record.get("norm", LINF)
    unit_of = "L2 length of the change" if norm == L2 else "Linf"
    drawn = with_interval(rows, "epsilon", f"epsilon, 1/255 of the pixel range ({unit_of})", [attack], top)
    drawn = with_chance(drawn, guessing, top)
    own = record["epsilon-255"]
    if 0 < own <= rows[-1]["epsilon"]:
        drawn = with_mark(drawn, own, f"{radius(own, norm) if norm == L2 else f'{own:g}/255'}, of this run")
    heading = f"{title}: accuracy under {attack}, after {unit} {record['round']}"
    caption = f"Band: 95 % intervals of the test sample; steps of 2.5 epsilon / steps; n = {n} test images"
    return Figure([Panel("", drawn, 270)], heading, caption, 200, 1)


def confusion_figure(arrays: Arrays, title: str) -> Figure:
    """Draw the predictions for the images of each class, in per cent of them, under the last of the attacks."""
    names = [str(name) for name in arrays["classes"]]
    attack, counts = confusion(arrays)
    drawn = shares(dict(zip(names, counts.tolist(), strict=True)), names, "predicted", "true class", percent=True)
    when = "without attack" if attack == "natural" else f"under {attack}"
    right = f"{counts.trace():,} of n = {counts.sum():,} are classified correctly"
    right += f"; {say_chance(counts.sum(1).max() / counts.sum())}"
    caption = f"Per cent of the test images of each class, {when}; {right}"
    return Figure([Panel("", drawn, height_of(len(names)))], f"{title}: predictions {when}", caption, 200, 1)


def confusion(arrays: Arrays) -> tuple[str, NDArray[np.int64]]:
    """Count the predictions under the last attack, that of the examples; ``natural`` without an attack.

    Args:
        arrays: of an evaluation, as ``server.evaluation`` keeps them.

    Returns:
        The attack, and counts [C,C] of images by true class and prediction.
    """
    found = Evaluation.from_arrays(arrays, len(arrays["classes"]))
    attack = next(reversed(found.robust), "natural")
    counts = np.zeros((found.classes, found.classes), np.int64)
    np.add.at(counts, (found.labels, found.predictions[attack]), 1)
    return attack, counts


def examples_figure(arrays: Arrays, title: str) -> Figure:
    """Draw images, what the attack adds (magnified, around gray) and the adversarial images, with both predictions."""
    images = arrays["example_images"].astype(np.float64) / 255
    adversarial = arrays["example_adversarial"].astype(np.float64)
    names = [str(name) for name in arrays["classes"]]
    added, factor, largest = magnified(images, adversarial)
    lines = "image", f"added, ×{factor}", "adversarial"
    told = arrays["example_natural"], None, arrays["example_attacked"]
    cells = [
        {"line": line, "column": column, "url": data_uri(picture, _SIDE), **_words(names, guesses, column, arrays)}
        for line, shown, guesses in zip(lines, (images, added, adversarial.clip(0, 1)), told, strict=True)
        for column, picture in enumerate(shown)
    ]
    drawn = pictures(cells, lines, _SIDE)
    heading = f"{title}: images under {arrays['example_attack']}, and what the model takes them for"
    caption = (
        f"Below an image: what it is taken for, which is right or wrong. Added: at most {largest:.3g}/255 a pixel, "
        f"shown {factor} times as large, around gray"
    )
    return Figure([Panel("", drawn, 3 * (_SIDE + 34))], heading, caption, WIDTH - 50 - len(images) * (_SIDE + 10), 1)


def _words(names: list[str], guesses: NDArray[Any] | None, column: int, arrays: Arrays) -> dict[str, Any]:
    """Return the prediction for an image, and whether it is right; empty where there is no prediction."""
    if guesses is None:
        return {"words": "", "good": None}
    good = bool(guesses[column] == arrays["example_labels"][column])
    return {"words": f"{'right' if good else 'wrong'}:\n{names[guesses[column]]}", "good": good}


def magnified(images: NDArray[Any], adversarial: NDArray[Any]) -> tuple[NDArray[Any], int, float]:
    """Return what an attack adds, as pictures around gray, how many times as large it is shown, and its largest change.

    Args:
        images: float [K,3,H,W] in [0, 1].
        adversarial: the same under attack.

    Returns:
        The pictures [K,3,H,W] in [0, 1], the factor, and the change in 1/255.
    """
    added = adversarial - images
    largest = float(np.abs(added).max())
    factor = max(known for known in _FACTORS if known == 1 or known * largest <= 0.5)
    return (0.5 + factor * added).clip(0, 1), factor, 255 * largest


def data_uri(pixels: NDArray[Any], side: int = 0) -> str:
    """Return a picture as a PNG in a data URI.

    Args:
        pixels: [3,H,W] in [0, 1].
        side: the least width in pixels; each pixel of the picture then becomes a square of several.
    """
    picture = (255 * pixels.clip(0, 1)).round().astype(np.uint8).transpose(1, 2, 0)
    times = -(-2 * side // max(picture.shape[:2])) if side else 1
    file = io.BytesIO()
    Image.fromarray(picture.repeat(times, 0).repeat(times, 1)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
