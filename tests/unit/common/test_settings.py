"""What a user writes, in ``--set``, in files and as a name: taken as it is meant, or told how it is written."""

from pathlib import Path

import pytest

from common.config.flat import default_config
from common.config.schema import parse_config
from common.errors import FedShieldError
from common.parsing import parse_json
from server.run_directory.reader import find_results
from simulations.cli.options import resolve
from simulations.studies.study import find_study, load_study


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("results.name=2024-05-01", "2024-05-01"),
        ("results.name=2024-05-01T10:00:00", "2024-05-01T10:00:00"),
        ("results.name=07", "07"),
        ("results.name=1e3", "1e3"),
        ("results.name=true", "true"),
        ("results.name = nan ", "nan"),
        ('results.name="quoted"', "quoted"),
        ("results.name='quoted'", "quoted"),
        ("train.milestones=50", "50"),
        ("data.root=5", "5"),
        ("train.augment=True", True),
        ("train.augment=FALSE", False),
        ("train.momentum=.5", 0.5),
        ("train.noise-std=1.", 1.0),
        ("federation.rounds=010", 10),
        ("attack.epsilon-255=4", 4),
    ],
)
def test_a_value_is_taken_as_its_key_wants_it(assignment: str, value: object) -> None:
    config = parse_config(resolve(None, [assignment], default_config()))
    found = config.flat()[assignment.partition("=")[0].strip()]
    assert (found, type(found)) == (value, type(value) if not isinstance(value, int) or value != 4 else float)


def test_every_key_takes_its_own_default_as_it_is_written(tmp_path: Path) -> None:
    config = parse_config(default_config())
    for key, value in config.flat().items():
        for written in (str(value), str(value).title() if isinstance(value, bool) else str(value)):
            assert parse_config(resolve(None, [f"{key}={written}"], default_config())) == config, key


def test_a_value_of_another_type_says_how_to_write_it(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    for line, told in {
        "results.name = 2024-05-01": 'results.name = 2024-05-01: not in quotes; write results.name = "2024-05-01"',
        "train.augment = 1": "train.augment = 1: input should be a valid boolean; write true or false",
        "federation.rounds = 2.0": "federation.rounds = 2.0: input should be a valid integer; write a whole number",
        "train.momentum = 'a'": "train.momentum = 'a': input should be a valid number; write a number, as in 0.5",
        "train.milestones = 50": 'train.milestones = 50: write the rounds as one string, separated by commas: "50,75"',
    }.items():
        path.write_text(line)
        with pytest.raises(FedShieldError) as caught:
            parse_config(resolve(path, [], default_config()))
        assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    "text",
    [
        '"federation.rounds" = 1\n[federation]\nrounds = 2',
        '[federation]\nrounds = 2\n["federation.rounds"]\nx = 1',
        '"federation.rounds" = 1\nfederation.rounds = 2',
    ],
)
def test_a_key_that_stands_twice_in_a_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(FedShieldError) as caught:
        resolve(path, [], default_config())
    if "x = 1" in text:
        assert "unknown key federation.rounds.x" in str(caught.value)
    else:
        assert str(caught.value).startswith(f'{path}: federation.rounds is set twice, as "federation.rounds" and in a')


def test_a_file_may_begin_with_a_byte_order_mark_and_must_be_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("seed = 5", encoding="utf-8-sig")
    assert resolve(path, [], default_config())["seed"] == 5
    path.write_text("seed = 5", encoding="utf-16")  # as Windows' PowerShell writes it
    with pytest.raises(FedShieldError, match=r"my\.toml: not valid TOML: not UTF-8 from byte 0; save it as UTF-8$"):
        resolve(path, [], default_config())


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("data.name=CIFAR10", "cifar10"),
        ("data.name=fashionmnist", "fashion-mnist"),
        ("attack.name=PGD", "pgd"),
        ("attack.name=pdg", "pgd"),
        ("evaluate.attacks=pdg-20x5", "pgd"),
        ("evaluate.final-attacks=auto-attack", "autoattack"),
        ("model.name=ResNet-18", "resnet18"),
        ("loss.name=trade", "trades"),
        ("strategy.name=Multi_Krum", "multi-krum"),
        ("partition.scheme=dirichelt", "dirichlet"),
        ("byzantine.attack=signflip", "sign-flip"),
        ("train.schedule=cosin", "cosine"),
        ("train.precision=bf16", "bfloat16"),
        ("results.trackers=TensorBoard", "tensorboard"),
        ("Federation.Rounds=3", "federation.rounds"),
    ],
)
def test_a_name_that_is_nearly_right_is_told(setting: str, meant: str) -> None:
    with pytest.raises(FedShieldError) as caught:
        parse_config(resolve(None, [setting], default_config()))
    assert meant in str(caught.value).partition("; did you mean ")[2]


def test_a_preset_or_a_study_that_is_nearly_right_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FedShieldError, match=r"; did you mean cpu-cifar10"):
        resolve(Path("cpu-cifar"), [], default_config())
    with pytest.raises(FedShieldError, match=r"; did you mean cpu-sharing"):
        find_study(Path("CPU-shairng"))
    (tmp_path / "runs" / "first").mkdir(parents=True)
    with pytest.raises(FedShieldError, match=r"/frist: not found; did you mean first\?$"):
        find_results(Path("frist"))


def test_a_folder_stands_in_no_names_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cpu-cifar10", "cpu-sharing", "first", "mine.toml"):
        (tmp_path / name).mkdir()
    assert resolve(Path("cpu-cifar10"), [], default_config())["data.name"] == "folder"
    assert load_study(Path("cpu-sharing")).name == "cpu-sharing"
    for find in (lambda: resolve(Path("mine.toml"), [], default_config()), lambda: find_study(Path("mine.toml"))):
        with pytest.raises(FedShieldError, match=rf"^{tmp_path}/mine\.toml: a folder, not a file; give a "):
            find()
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    assert find_results(Path("first")) == run
    (tmp_path / "first" / "config.json").write_text("{}")
    assert find_results(Path("first")) == tmp_path / "first"


@pytest.mark.parametrize(
    "table",
    ['[set]\n"model.width" = 2\nmodel.width = 3', '[[case]]\nname = "a"\n"model.width" = 2\nmodel.width = 3'],
)
def test_a_key_that_stands_twice_in_a_study_is_told(tmp_path: Path, table: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text(f"seeds = [1]\n{table}")
    with pytest.raises(FedShieldError, match=rf"^{path}: model\.width is set twice, as"):
        load_study(path)


def test_a_key_that_stands_twice_in_json_is_told() -> None:
    with pytest.raises(ValueError, match=r"^'classes' appears twice in it$"):
        parse_json(b'{"a": [{"classes": [], "client": 1, "classes": []}]}')
