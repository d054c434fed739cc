"""Datasets of others: Hugging Face's, MedMNIST, Tiny ImageNet; read from here, and one line where they are not."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import medmnist
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pictures

from common.config.schema import RunConfig
from common.data.datasets import is_at_hand, load_data
from common.errors import FedShieldError
from common.factory import prepare_data
from server.run_directory.opening import new_place
from simulations.studies.trial import count_classes
from tests.helpers.runs import run
from tests.helpers.settings import tiny_config

NAMES = ["T-shirt/top", "Bag", "Boot"]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and no network."""
    monkeypatch.setenv("FEDSHIELD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def picture(color: int, side: int = 40) -> Pictures.Image:
    return Pictures.new("L", (side, side), color)


def saved(root: Path, name: str, count: int = 12, tests: str = "test", **columns: list) -> DatasetDict:
    """Save a Hugging Face dataset whose image number i is of class i % 3 and of the gray i."""

    def part(count: int) -> Dataset:
        rows = {"image": [picture(number) for number in range(count)], "label": [number % 3 for number in range(count)]}
        kinds = {"image": Image(), "label": ClassLabel(names=NAMES)}
        kinds |= {column: Value("string") for column in columns}
        rows |= {column: values[:count] for column, values in columns.items()}
        return Dataset.from_dict(rows, features=Features(kinds))

    both = DatasetDict({"train": part(count), tests: part(6)})
    both.save_to_disk(str(root / name))
    return both


def test_a_saved_hugging_face_dataset_is_read(tmp_path: Path) -> None:
    saved(tmp_path, "me/pets")
    assert is_at_hand("hf:me/pets", str(tmp_path), 32)
    splits = load_data("hf:me/pets", str(tmp_path), 32)
    assert splits.train.classes == ("T-shirt or top", "Bag", "Boot")
    assert splits.train.images.shape == (12, 3, 32, 32)
    assert splits.train.images[:, :, 7, 9].tolist() == [[number] * 3 for number in range(12)]
    assert splits.train.labels.tolist() == [0, 1, 2] * 4
    assert splits.test.labels.tolist() == [0, 1, 2] * 2
    assert load_data("hf:me/pets", str(tmp_path), 48).train.images.shape == (12, 3, 48, 48)
    saved(tmp_path, "me/pets", count=9)  # other content is decoded again
    assert len(load_data("hf:me/pets", str(tmp_path), 32).train.labels) == 9


def test_a_folder_of_class_folders_is_read_by_their_library_too(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("validation", 2)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for number in range(count):
                picture(10 * label + number).save(tmp_path / "pets" / part / name / f"{number}.png")
    splits = load_data("hf:pets", str(tmp_path), 16)
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert splits.test.labels.tolist() == [0, 0, 1, 1]  # there is no test: the validation images are


def test_where_several_columns_may_be_the_labels_the_name_says_which(tmp_path: Path) -> None:
    features = Features({"img": Image(), "coarse": ClassLabel(names=["a", "b"]), "fine": ClassLabel(names=NAMES)})
    rows = {"img": [picture(1)] * 3, "coarse": [0, 1, 0], "fine": [2, 1, 0]}
    part = Dataset.from_dict(rows, features=features)
    DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(
        FedShieldError, match=r"which column has the labels\? One of coarse, fine; write data\.name=hf:b"
    ):
        load_data("hf:both", str(tmp_path), 32)
    assert load_data("hf:both:fine", str(tmp_path), 32).train.labels.tolist() == [2, 1, 0]
    assert load_data("hf:both:coarse", str(tmp_path), 32).train.classes == ("a", "b")
    with pytest.raises(FedShieldError, match=r"One of img, coarse, fine"):
        load_data("hf:both:finer", str(tmp_path), 32)


def test_labels_without_names_are_their_values(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": Value("string")})
    train = Dataset.from_dict({"image": [picture(1)] * 3, "label": ["owl", "ant", "owl"]}, features=features)
    other = Dataset.from_dict({"image": [picture(1)], "label": ["bee"]}, features=features)
    DatasetDict({"train": train, "test": train}).save_to_disk(str(tmp_path / "words"))
    splits = load_data("hf:words", str(tmp_path), 32)
    assert (splits.train.classes, splits.train.labels.tolist()) == (("ant", "owl"), [1, 0, 1])
    DatasetDict({"train": train, "test": other}).save_to_disk(str(tmp_path / "more"))
    with pytest.raises(FedShieldError, match=r"1 images have no class of the training images \(first: 'bee'"):
        load_data("hf:more", str(tmp_path), 32)


def test_what_is_no_dataset_is_one_line(tmp_path: Path) -> None:
    part = Dataset.from_dict({"text": ["a"], "label": [0]})
    DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "texts"))
    DatasetDict({"train": part}).save_to_disk(str(tmp_path / "one"))
    assert not is_at_hand("hf:nobody/nothing", str(tmp_path), 32)
    for name, says in {
        "hf:texts": "no column of images among text, label",
        "hf:one": "has the splits train; a run needs train, and test or validation",
        "hf:nobody/nothing": "not in .*nobody/nothing, and not to be had from the Hugging Face Hub",
    }.items():
        with pytest.raises(FedShieldError, match=says) as error:
            load_data(name, str(tmp_path), 32)
        assert "\n" not in str(error.value)


def natural(root: Path, **changes: object) -> RunConfig:
    given = {"data__name": "hf:mail", "data__root": str(root), "data__max_examples": 0, "partition__scheme": "natural"}
    given |= {"partition__by": "writer", "sharing__pool_fraction": 0.0, "sharing__fraction": 0.0}
    return tiny_config(**{**given, **changes})


def test_owners_of_a_column_are_clients(tmp_path: Path) -> None:
    writers = [f"writer {number % 4}" for number in range(24)]
    saved(tmp_path, "mail", count=24, writer=writers)
    splits, division = prepare_data(natural(tmp_path, federation__clients=4))
    gray = splits.train.images[:, 0, 0, 0]
    assert [sorted(gray[shard].tolist()) for shard in division.shards] == [[*range(each, 24, 4)] for each in range(4)]
    _, two = prepare_data(natural(tmp_path, federation__clients=2))
    assert [sorted(shard.tolist()) for shard in two.shards] == [
        sorted([*range(each, 24, 4), *range(each + 1, 24, 4)]) for each in (0, 2)
    ]
    for changes, says in (
        (
            {"federation__clients": 3},
            "the private training images have 4 owners; set federation.clients to one of 2, 4",
        ),
        ({"partition__by": ""}, "partition.by is empty"),
        (
            {"partition__by": "author"},
            "partition.by = 'author': hf:mail has no such column; it has image, label, writer",
        ),
        ({"data__name": "cifar10"}, "the images of data.name = cifar10 have no owners"),
    ):
        with pytest.raises(FedShieldError, match=says):
            prepare_data(natural(tmp_path, **{"federation__clients": 4, **changes}))


def test_owners_of_an_image_folder_are_the_folders_within_its_classes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            for place, owner in enumerate(("ann", "bob")):
                (tmp_path / part / name / owner).mkdir(parents=True)
                for number in range(5):
                    picture(100 * label + 10 * place + number).save(tmp_path / part / name / owner / f"{number}.png")
    given = {"data__name": "folder", "partition__by": "", "federation__clients": 2}
    splits, division = prepare_data(natural(tmp_path, **given))
    gray = splits.train.images[:, 0, 0, 0]
    assert [sorted({value % 100 // 10 for value in gray[shard].tolist()}) for shard in division.shards] == [[0], [1]]
    picture(1).save(tmp_path / "train" / "cat" / "stray.png")
    with pytest.raises(FedShieldError, match=r"stray\.png: in no owner's folder; .* needs CLASS/OWNER/IMAGE"):
        prepare_data(natural(tmp_path, **given, seed=2))


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, bool], Path]:
    """Write a file of MedMNIST's format, and let the package take it for the published one."""

    def write(flag: str, side: int, color: bool) -> Path:
        shape = (side, side, 3) if color else (side, side)
        path = tmp_path / f"{flag}{'' if side == 28 else f'_{side}'}.npz"
        kept = {}
        for part, count in (("train", 9), ("val", 9), ("test", 18)):
            kept[f"{part}_images"] = np.stack([np.full(shape, number, np.uint8) for number in range(count)])
            kept[f"{part}_labels"] = (np.arange(count) % 9).astype(np.uint8)[:, None]
        np.savez(path, **kept)
        monkeypatch.setitem(
            medmnist.INFO[flag], f"MD5{path.stem.removeprefix(flag)}", hashlib.md5(path.read_bytes()).hexdigest()
        )
        return path

    return write


def test_medmnist_is_read_in_the_size_that_is_needed(
    tmp_path: Path, published: Callable[[str, int, bool], Path]
) -> None:
    published("pathmnist", 28, True)
    splits = load_data("medmnist:pathmnist", str(tmp_path), 32)
    assert splits.train.classes[:2] == ("adipose", "background")
    assert splits.train.images.shape == (9, 3, 32, 32)
    assert splits.test.images[:, 0, 0, 0].tolist() == [*range(18)]
    assert splits.test.labels.tolist() == [*range(9)] * 2
    assert is_at_hand("medmnist:pathmnist", str(tmp_path), 32)
    assert not is_at_hand("medmnist:pathmnist", str(tmp_path), 64)
    published("pathmnist", 64, True)
    assert load_data("medmnist:pathmnist", str(tmp_path), 64).train.images.shape == (9, 3, 64, 64)
    published("organamnist", 28, False)
    gray = load_data("medmnist:organamnist", str(tmp_path), 32).train
    assert (len(gray.classes), gray.images[4, :, 3, 3].tolist()) == (11, [4, 4, 4])


def test_medmnist_that_is_not_there_or_not_of_one_label_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(FedShieldError, match=r"bloodmnist\.npz: not found, and the download failed"):
        load_data("medmnist:bloodmnist", str(tmp_path), 32)
    for flag in ("chestmnist", "organmnist3d", "pathmnistt"):
        with pytest.raises(
            FedShieldError, match=f"data.name = medmnist:{flag}: unknown, or not of flat images with one"
        ):
            load_data(f"medmnist:{flag}", str(tmp_path), 32)
    (tmp_path / "dermamnist.npz").write_bytes(b"something else")
    with pytest.raises(FedShieldError, match=r"dermamnist\.npz: MD5 is .*, expected"):
        load_data("medmnist:dermamnist", str(tmp_path), 32)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Tiny ImageNet's layout, with three classes."""
    folder, lines = tmp_path / "tiny-imagenet-200", []
    for label, number in enumerate(("n01", "n02", "n03")):
        (folder / "train" / number / "images").mkdir(parents=True)
        (folder / "train" / number / f"{number}_boxes.txt").write_text("0\t0\t9\t9\n")
        for place in range(4):
            picture(10 * label + place, 64).save(folder / "train" / number / "images" / f"{number}_{place}.JPEG")
            lines.append(f"val_{4 * label + place}.JPEG\t{number}\t0\t0\t9\t9")
    (folder / "val" / "images").mkdir(parents=True)
    for place in range(12):
        picture(100 + place, 64).save(folder / "val" / "images" / f"val_{place}.JPEG")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "words.txt").write_text("n01\tcrane, bird\nn02\tcrane, machine\nn03\tgoldfish, Carassius\nn9\tno\n")
    return folder


def test_tiny_imagenet_is_tested_on_its_validation_images(tmp_path: Path, tiny: Path) -> None:
    splits = load_data("tiny-imagenet", str(tmp_path), 64)
    assert splits.train.classes == ("n01", "n02", "goldfish")  # two cranes: by their numbers
    assert splits.train.images.shape == (12, 3, 64, 64)
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits.train.images[:, 0, 9, 9].tolist() == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert splits.test.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert sorted(splits.test.images[:, 0, 9, 9].tolist()) == [*range(100, 112)]
    with (tiny / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_0.JPEG\tn77\t0\t0\t9\t9\n")
    with pytest.raises(FedShieldError, match=r"val_annotations\.txt: no class of train for val_0\.JPEG"):
        load_data("tiny-imagenet", str(tmp_path), 32)


def test_tiny_imagenet_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert not is_at_hand("tiny-imagenet", str(tmp_path), 64)
    with pytest.raises(FedShieldError, match=r"tiny-imagenet-200\.zip: not found, and the download failed"):
        load_data("tiny-imagenet", str(tmp_path), 64)


def test_a_run_on_a_hugging_face_dataset_has_a_directory_and_says_its_name(tmp_path: Path) -> None:
    saved(tmp_path, "me/pets", count=60)
    given = {"data__name": "hf:me/pets", "data__root": str(tmp_path), "data__max_examples": 0}
    small = {"federation__clients": 2, "federation__rounds": 1, "partition__scheme": "size", "partition__sizes": "1,2"}
    path = run(tmp_path, "one", **given, **small, evaluate__final_attacks="", diagnosis__enabled=False)
    described = json.loads((path / "partition.json").read_text())
    assert [sum(counts) for counts in described["clients"]] == [16, 32]
    assert new_place(tmp_path / "runs", tiny_config(**given)).name.endswith("-hf-me-pets-seed1")


@pytest.mark.parametrize(("name", "classes"), [("medmnist:bloodmnist", 8), ("tiny-imagenet", 200), ("hf:me/pets", 10)])
def test_the_number_of_classes_is_known_before_the_download_as_far_as_it_can_be(
    tmp_path: Path, name: str, classes: int
) -> None:
    assert count_classes(tiny_config(data__name=name, data__root=str(tmp_path))) == classes
