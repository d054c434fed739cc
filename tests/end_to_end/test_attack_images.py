"""`fedshield attack`: what an attack does to a user's own pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from common.data.shapes10 import CLASSES, generate
from common.errors import FedShieldError
from common.exported import load_exported
from simulations.attack_images import attack_pictures, table, write_pictures
from simulations.cli.main import app
from simulations.export.formats import export_run
from tests.helpers.program import invoke
from tests.helpers.runs import run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = run(tmp_path_factory.mktemp("runs"), "run", data__max_examples=600, federation__rounds=4, model__width=8)
    return export_run(path, "safetensors")[0]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Test images of shapes10: the first ten in folders named by their class, the rest in one without such a name."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for place, (image, label) in enumerate(zip(*generate(train=False, count=20), strict=True)):
        paths.append(folder / (CLASSES[label] if place < 10 else "unsorted") / f"{place}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(paths[-1])
    return paths


def test_pictures_stay_within_epsilon_and_what_is_told_is_of_the_files(
    model: Path, pictures: list[Path], tmp_path: Path
) -> None:
    found = attack_pictures(model, pictures, "pgd-20", 8, None)
    apart = np.abs(found.adversarial.astype(int) - found.images.astype(int))
    right = found.before.argmax(1) == found.labels
    assert apart.max() == 8
    assert apart[~right].max(initial=0) == 0
    assert found.guessed.tolist() == [False] * 10 + [True] * 10
    assert [CLASSES[label] for label in found.labels[:10]] == [path.parent.name for path in pictures[:10]]
    assert right[10:].all()
    assert (found.after.argmax(1) != found.labels)[right].any()
    written = write_pictures(found, "pgd-20", tmp_path)
    assert [path.name for path in written[-2:]] == ["attacked.png", "attacked.svg"]
    reread = np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in written[:20]])
    assert np.array_equal(reread, found.adversarial)
    with torch.no_grad():
        again = load_exported(model)(torch.from_numpy(reread).float() / 255).softmax(1)
    assert np.allclose(again, found.after, atol=1e-6)


def test_a_run_and_its_exported_model_give_the_same(model: Path, pictures: list[Path]) -> None:
    of_run, of_export = (attack_pictures(path, pictures, "pgd-5x2", 8, None) for path in (model.parents[1], model))
    assert np.array_equal(of_run.adversarial, of_export.adversarial)


def test_more_passes_break_no_fewer_pictures(model: Path, pictures: list[Path]) -> None:
    robust = [
        (attack_pictures(model, pictures, attack, 8, None).after.argmax(1), attack) for attack in ("pgd-3", "pgd-3x4")
    ]
    labels = attack_pictures(model, pictures, "fgsm", 0, None).labels
    (once, _), (four, _) = robust
    assert ((once == labels) | (four != labels)).all()  # what one start breaks is broken


def test_a_picture_with_a_wrong_class_is_left_alone(model: Path, pictures: list[Path]) -> None:
    taken = attack_pictures(model, pictures[-1:], "fgsm", 8, None)
    other = CLASSES[(int(taken.labels[0]) + 1) % 10]
    found = attack_pictures(model, pictures[-1:], "fgsm", 8, other)
    assert np.array_equal(found.adversarial, found.images)
    cells = [next(iter(column.cells)) for column in table(found).columns]
    assert cells[1] == other
    assert cells[3:] == ["wrong before", ""]


def test_what_an_attack_without_a_budget_moves_is_not_called_epsilon(model: Path, pictures: list[Path]) -> None:
    assert table(attack_pictures(model, pictures[:3], "deepfool", None, None)).title == (
        "deepfool, the smallest change it finds"
    )
    bounded = attack_pictures(model, pictures[:3], "pgd-3", None, None)
    assert table(bounded).title == "pgd-3, epsilon 8/255 (Linf)"
    assert np.abs(bounded.adversarial.astype(int) - bounded.images.astype(int)).max() == 8


def test_two_pictures_of_one_name_are_both_written(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    found = attack_pictures(model, [pictures[0], pictures[0]], "fgsm", 8, None)
    names = [path.name for path in write_pictures(found, "fgsm", tmp_path)]
    assert names == ["0-attacked.png", "0-2-attacked.png", "attacked.png", "attacked.svg"]


def test_mistakes_are_one_line(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "not.png").write_text("no picture")
    one = str(pictures[0])
    for arguments, told in (
        ([str(model), str(tmp_path / "not.png")], "not.png: not a readable image"),
        ([str(model), str(tmp_path / "none.png")], "none.png: No such file or directory; check the path"),
        ([str(model), str(tmp_path)], f"{tmp_path}: is a folder; give the images in it"),
        ([str(model), one, "--attack", "deepfool", "--epsilon", "4"], "--epsilon 4: deepfool has no budget, it looks"),
        ([str(tmp_path / "none"), one], "none: not found; give a file from fedshield export"),
        ([str(tmp_path), one], "is this a run directory?"),
        ([str(model), one, "--label", "circel"], "--label circel: no class of this model; the model's classes are"),
        ([str(model), one, "--attack", "pgdd"], "--attack pgdd: unknown attack 'pgdd'"),
        ([str(model), one, "--attack", "pgd,fgsm"], "--attack pgd,fgsm: give one attack"),
    ):
        error = CliRunner().invoke(app, ["attack", *arguments]).exception
        assert isinstance(error, FedShieldError), arguments
        assert told in str(error)
        assert "\n" not in str(error)


def test_the_command_shows_a_row_for_each_picture(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    done = invoke("attack", str(model), *map(str, pictures[:3]), "--attack", "autoattack", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path in pictures[:3]:
        assert path.name in done.stdout
    assert (tmp_path / "attacked" / "attacked.svg").exists()
