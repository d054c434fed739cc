"""``fedshield attack``: what an attack does to a user's own pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.table import Column, Table
from torch import Tensor, nn

from common.attacks.library import attack_mode, build_attack, check_classes
from common.attacks.threat import LINF, AttackSpec, Minimal, Threat, radius
from common.data.image_folders import decode_images
from common.data.pictures import SQUASH
from common.errors import FedShieldError, explain_os_errors
from common.evaluation.evaluate import passes
from common.exported import Exported, read_exported
from common.factory import make_model, prepare_torch
from common.files import writing
from common.seeding import seed_for
from common.training.trainer import pixels
from common.words import near
from server.run_directory.checkpoint import fit_state, selected_model
from server.run_directory.reader import read_classes, read_config
from server.run_directory.restored import stored_config
from simulations.places import refuse_results
from simulations.reports.figures.evaluation_figures import examples_figure
from simulations.reports.figures.files import save_all

_DRAWN = 12
_EPSILON = 8.0


@dataclass(frozen=True)
class Attacked:
    """What became of each of K pictures.

    Attributes:
        paths: of the pictures.
        how: the attack and its budget, in words.
        classes: of the model.
        labels: int64 [K], the classes that the attack moves away from.
        guessed: bool [K], where the label is what the model took the picture for.
        images: uint8 [K,3,H,W], as the model sees them.
        adversarial: the same under attack, in 8 bits as well.
        before: float [K, classes], probabilities of the pictures.
        after: of the adversarial ones.
    """

    paths: Sequence[Path]
    how: str
    classes: Sequence[str]
    labels: NDArray[np.int64]
    guessed: NDArray[np.bool_]
    images: NDArray[np.uint8]
    adversarial: NDArray[np.uint8]
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def attack_pictures(
    checkpoint: Path,
    paths: Sequence[Path],
    attack: str,
    epsilon: float | None,
    label: str | None,
    seed: int = 1,
    trust_code: bool = False,
) -> Attacked:
    """Attack pictures; everything that is told of them is of 8-bit pixels, as a file can hold them.

    A picture's label is ``label``, or else the name of its folder where that is a class, or else what the model takes
    it for. A picture that the model gets wrong is left as it is.

    Args:
        checkpoint: a run's directory, or a ``model.safetensors`` that ``fedshield export`` wrote.
        paths: of the pictures, which are resized to what the model takes.
        attack: as in ``evaluate.attacks``; its steps are 2.5 epsilon / number of steps long.
        epsilon: in 1/255; the usual one if not given. An attack without a budget takes none.
        label: the class of all pictures.
        seed: of what the attack draws.
        trust_code: run code of the run or model that has not been run on this machine before.

    Raises:
        FedShieldError: no model there, no such class, or a file that is not an image.
    """
    spec = AttackSpec.parse(attack)
    minimal = isinstance(spec.family, Minimal)
    if minimal and epsilon is not None:
        raise FedShieldError(
            f"--epsilon {epsilon:g}: {attack} has no budget, it looks for the smallest change; leave --epsilon out"
        )
    size = _EPSILON if epsilon is None else epsilon
    how = f"{attack}, " + ("the smallest change it finds" if minimal else f"epsilon {radius(size, LINF)}")
    found = _read(checkpoint, trust_code)
    check_classes([attack], len(found.classes))
    if label is not None and label not in found.classes:
        known = f"; the model's classes are {', '.join(found.classes)}" if len(found.classes) <= 20 else ""
        raise FedShieldError(f"--label {label}: no class of this model{known}{near(label, list(found.classes))}")
    device = prepare_torch(0)
    model = found.model.to(device)
    resize = str(read_config(checkpoint)["data.resize"]) if checkpoint.is_dir() else SQUASH
    images = decode_images([str(path) for path in paths], found.image_size, resize)
    before = _probabilities(model, pixels(images, device))
    known_labels = [label if label is not None else path.absolute().parent.name for path in paths]
    guessed = np.array([name not in found.classes for name in known_labels])
    labels = before.argmax(1)
    labels[~guessed] = [found.classes.index(name) for name in known_labels if name in found.classes]
    threat = Threat.reaching(size / 255, max(1, spec.steps))
    inputs, targets = pixels(images, device), torch.from_numpy(labels).to(device)
    adversarial = _perturb(model, inputs, targets, spec, threat, len(found.classes), seed)
    after = _probabilities(model, adversarial)
    changed = (255 * adversarial).round().byte().cpu().numpy()
    return Attacked(paths, how, found.classes, labels, guessed, images, changed, before, after)


def _read(checkpoint: Path, trust_code: bool) -> Exported:
    """Return the model of a run, or an exported one."""
    if not checkpoint.is_dir():
        return read_exported(checkpoint, trust_code)
    config = stored_config(checkpoint, {}, "options", trust_code)
    classes = read_classes(checkpoint)
    model = make_model(config, len(classes)).eval()
    fit_state(model, selected_model(checkpoint)[1], checkpoint)
    return Exported(model, classes, config.data.side)


def _probabilities(model: nn.Module, inputs: Tensor) -> NDArray[np.float32]:
    with torch.no_grad(), attack_mode(model):
        return model(inputs).softmax(1).cpu().numpy()  # type: ignore[no-any-return]


def _perturb(
    model: nn.Module, inputs: Tensor, targets: Tensor, spec: AttackSpec, threat: Threat, classes: int, seed: int
) -> Tensor:
    """Run an attack, with all its passes, on the pictures that are classified correctly; return 8-bit pixels."""
    adversarial = inputs.clone()
    for _, attack, restart in passes(spec):
        with torch.no_grad(), attack_mode(model):
            alive = model(adversarial).argmax(1) == targets
        if alive.any():
            torch.manual_seed(seed_for(seed, str(attack), restart))
            run = build_attack(attack.name, model, attack.within(threat), classes, "--attack")
            found = run(inputs[alive], targets[alive])
            adversarial[alive] = (255 * found).round() / 255
    return adversarial


def table(found: Attacked) -> Table:
    """Return one row for each picture."""
    headings = "class", "prediction", "under attack", "change, 1/255"
    sheet = Table(Column("picture", overflow="fold"), *headings, title=found.how)
    moved = np.abs(found.adversarial.astype(int) - found.images.astype(int)).reshape(len(found.images), -1).max(1)
    for place, path in enumerate(found.paths):
        own = "as predicted" if found.guessed[place] else found.classes[found.labels[place]]
        views = [
            f"{found.classes[row.argmax()]} ({100 * row.max():.0f} %)"
            for row in (found.before[place], found.after[place])
        ]
        wrong = found.before[place].argmax() != found.labels[place]
        sheet.add_row(
            str(Path(*path.parts[-2:])),
            own,
            views[0],
            "wrong before" if wrong else views[1],
            "" if wrong else str(moved[place]),
        )
    return sheet


def write_pictures(found: Attacked, attack: str, folder: Path) -> list[Path]:
    """Write each adversarial picture as a PNG, and a figure of the first twelve; return the files."""
    refuse_results(folder)
    written: list[Path] = []
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path, image in zip(found.paths, found.adversarial, strict=True):
            again = chain([""], (f"-{number}" for number in count(2)))
            places = (folder / f"{path.stem}{each}-attacked.png" for each in again)
            written.append(next(place for place in places if place not in written))
            with writing(written[-1]) as file:
                Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
    few = slice(_DRAWN)
    arrays = {
        "classes": np.array(found.classes),
        "example_images": found.images[few],
        "example_adversarial": found.adversarial[few] / np.float32(255),
        "example_labels": found.labels[few],
        "example_natural": found.before[few].argmax(1),
        "example_attacked": found.after[few].argmax(1),
        "example_attack": np.array(attack),
    }
    return [*written, *save_all({"attacked": examples_figure(arrays, "your pictures")}, folder, ("attacked",))]
