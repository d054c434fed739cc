"""The run configuration: every mistake is one line that names the key."""

from pathlib import Path
from typing import get_args

import pytest

from common.config.data_tables import DataConfig
from common.config.flat import default_config, flatten, merge, read_toml
from common.config.schema import parse_config
from common.config.tables import AttackConfig, LossConfig, ModelConfig
from common.config.values import ActivationName, SchemeName
from common.data.datasets import DATASETS
from common.data.schemes import SCHEMES
from common.errors import FedShieldError
from common.factory import prepare_data
from common.models.activations import ACTIVATIONS
from common.models.networks import MODELS
from common.training.losses import LOSSES
from simulations.cli.options import new_or_stored, resolve
from simulations.shipped import PRESETS


def test_defaults_are_valid_and_survive_the_way_through_flower() -> None:
    defaults = default_config()
    assert parse_config(defaults).flat() == defaults


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.toml")), ids=lambda path: path.stem)
def test_presets_are_valid(preset: Path) -> None:
    parse_config(merge(default_config(), read_toml(preset), preset.name))


def test_quickstart_preset_is_what_a_run_without_a_file_does() -> None:
    assert resolve(Path("quickstart"), [], default_config()) == default_config()


def test_the_final_evaluation_ends_with_autoattack_where_that_can_run() -> None:
    def attacks(classes: int = 10, **changes: object) -> tuple[str, ...]:
        changed = {key.replace("__", "."): value for key, value in changes.items()}
        return parse_config({**default_config(), **changed}).final_attacks(classes)

    assert default_config()["evaluate.final-examples"] == 1000
    assert attacks(data__name="cifar10") == ("fgsm", "pgd-20", "autoattack")
    assert attacks(data__name="folder", classes=4)[-1] == "autoattack"
    assert attacks(data__name="folder", classes=3) == ("fgsm", "pgd-20", "apgd-ce", "fab-t", "square")
    assert attacks() == ("fgsm", "pgd-20", "apgd-t-20")
    assert attacks(**{"evaluate.final-attacks": "pgd"}) == ("pgd-10",)
    assert attacks(**{"evaluate.final-attacks": ""}) == ()
    for name in ("cifar10-iid", "cifar10-noniid", "cifar10-noniid-share40"):
        config = parse_config(resolve(Path(name), [], default_config()))
        assert config.final_attacks()[-1] == "autoattack"
        assert config.evaluate.final_examples == 0


def test_paper_presets_differ_in_partition_and_sharing_alone() -> None:
    keys = ("partition.scheme", "sharing.fraction")
    found = {
        name: resolve(Path(name), [], default_config())
        for name in ("cifar10-iid", "cifar10-noniid", "cifar10-noniid-share40")
    }
    assert [tuple(flat[key] for key in keys) for flat in found.values()] == [
        ("iid", 0.0),
        ("paper", 0.0),
        ("paper", 0.4),
    ]
    rest = [{key: value for key, value in flat.items() if key not in keys} for flat in found.values()]
    assert rest[0] == rest[1] == rest[2]


def names_in(table: type[DataConfig | ModelConfig | AttackConfig | LossConfig]) -> tuple[str, ...]:
    """The names of what is FedShield's own."""
    allowed = table.model_json_schema()["properties"]["name"]["enum"]
    return tuple(name for name in allowed if ":" not in name)


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (names_in(DataConfig), DATASETS),
        (get_args(SchemeName), SCHEMES),
        (names_in(ModelConfig), MODELS),
        (get_args(ActivationName), ACTIVATIONS),
        (names_in(AttackConfig), {"none", "mixture", "fgsm", "bim", "pgd", "cw", "deepfool"}),
        (names_in(LossConfig), LOSSES),
    ],
    ids=["data", "scheme", "model", "activation", "attack", "loss"],
)
def test_the_names_that_the_config_allows_are_those_of_the_tables(names: tuple[str, ...], table: dict) -> None:
    assert set(names) == set(table)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        (
            "federation.round=3",
            "unknown key federation.round (--set federation.round=3); did you mean federation.rounds",
        ),
        ("data.name=hf:", "data.name = 'hf:': unknown; allowed: shapes10, cifar10,"),
        ("data.name=fashion", "data.name = 'fashion': unknown; allowed: shapes10,"),
        ("partition.sizes=1,0", "partition.sizes = '1,0': write one number above 0 for each client"),
        ("rounds=3", "did you mean federation.rounds?"),
        ("federation=3", "unknown key federation "),
        ("federation.rounds=0", "federation.rounds = 0: input should be greater than or equal to 1"),
        ("federation.rounds=2.5", "federation.rounds = 2.5: input should be a valid integer"),
        ("federation.rounds=ten", "federation.rounds = 'ten': input should be a valid integer"),
        ("federation.fraction=1.5", "federation.fraction = 1.5: input should be less than or equal to 1"),
        ("train.learning-rate=nan", "train.learning-rate = nan: input should be a finite number"),
        ("train.augment=1", "train.augment = 1: input should be a valid boolean"),
        ("train.flip=true", "train.flip = 'true': unknown; allowed: auto, on, off"),
        ("model.activation=rleu", "model.activation = 'rleu': unknown; allowed: relu, leaky-relu,"),
        ("model.activation=rleu", "did you mean relu"),
        (
            "attack.name=pdg",
            "attack.name = 'pdg': unknown; allowed: none, fgsm, bim, pgd, cw, deepfool,",
        ),
        ("evaluate.attacks=fgsm,pdg-10", "evaluate.attacks = 'fgsm,pdg-10': unknown attack 'pdg-10'; known: fgsm,"),
        ("evaluate.attacks=pgd-0", "unknown attack 'pgd-0'"),
        ('evaluate.attacks=["pgd"]', "write the attacks as one string, separated by commas"),
        ("train.milestones=75,50", "train.milestones = '75,50': the rounds must be in increasing order"),
        ("train.milestones=[50, 75]", "write the rounds as one string"),
        ("seed=-1", "seed = -1: input should be greater than or equal to 0"),
        ("data.image-size=20", "data.image-size = 20: input should be a multiple of 16"),
        ("train.noise-std", "--set train.noise-std: write key=value"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(assignment: str, expected: str) -> None:
    with pytest.raises(FedShieldError) as caught:
        parse_config(resolve(None, [assignment], default_config()))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("federation.clients=5", "federation.clients = 5: partition.scheme = paper is made for 10 clients"),
        ("sharing.pool-fraction=0.0", "sharing.fraction = 0.4: there is no pool to share"),
    ],
)
def test_what_only_a_division_needs_stops_no_centralized_training(assignment: str, expected: str) -> None:
    config = parse_config(resolve(None, [assignment], default_config()))
    with pytest.raises(FedShieldError, match=f"^{expected}"):
        prepare_data(config)
    assert len(prepare_data(config, centralized=True)[1].shards) == 1


def test_bare_words_and_toml_values_are_understood() -> None:
    given = ["data.root=/some/place", "train.momentum=0", 'train.milestones="5,7"', "evaluate.attacks=pgd,fgsm,pgd-10"]
    config = parse_config(resolve(None, given, default_config()))
    assert config.data.root == "/some/place"
    assert config.train.momentum == 0
    assert config.train.milestones == (5, 7)
    assert config.evaluate.attacks == ("pgd-10", "fgsm")  # pgd is PGD-10, and counts once


def test_min_replies_are_not_at_the_mercy_of_floats() -> None:
    def replies(min_fraction: float, clients: int) -> int:
        given = {"federation.min-fraction": min_fraction, "federation.clients": clients, "partition.scheme": "iid"}
        return parse_config({**default_config(), **given}).federation.min_replies

    assert [replies(0.07, 100), replies(0.55, 20), replies(0.5, 3), replies(1.0, 10)] == [7, 11, 2, 10]


def test_a_missing_file_names_the_presets() -> None:
    with pytest.raises(FedShieldError, match=r"no-such: no such file; .*cpu-cifar10, cpu-study, quickstart"):
        resolve(Path("no-such"), [], default_config())


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("seed = = 1")
    with pytest.raises(FedShieldError, match=r"bad\.toml: not valid TOML: .*line 1"):
        read_toml(path)


def test_flatten_is_what_flower_does() -> None:
    from flwr.common.config import flatten_dict  # Flower's own, to stay in step with it

    nested = {"seed": 1, "data": {"name": "x", "deep": {"er": True}}}
    assert flatten(nested) == flatten_dict(nested)


def test_a_network_made_for_one_size_refuses_another() -> None:
    changes = ["model.name=cnn2", "data.name=folder", "data.image-size=64"]
    with pytest.raises(FedShieldError, match=r"^data\.image-size = 64: model\.name = cnn2 is made for 32; set"):
        parse_config(resolve(None, changes, default_config()))
    assert parse_config(resolve(None, changes[:2], default_config())).model.name == "cnn2"


@pytest.mark.parametrize("mixture", ["pgd:2,cw:1", "pgd:1e-05,cw:1", "pgd:0.33333333,cw:1", "pgd:1e+06,cw:1"])
def test_a_mixture_survives_the_way_through_flower(mixture: str) -> None:
    config = parse_config({**default_config(), "attack.mixture": mixture})
    assert config.flat()["attack.mixture"] == mixture
    assert parse_config(config.flat()) == config


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/abs",
        "a/b",
        "a\\b",
        ".",
        "..",
        "-rf",
        "~root",
        " x",
        "x ",
        "a\nb",
        "\x1b[2J",
        "\u202egnp",
        "ä" * 101,
    ],
)
def test_a_runs_name_is_one_folder_in_the_folder_of_results(name: str, tmp_path: Path) -> None:
    for config in (
        lambda: parse_config({**default_config(), "results.name": name}),  # flwr run, and fedshield submit
        lambda: new_or_stored(None, None, tmp_path, name, None, "federation"),
    ):
        with pytest.raises(
            FedShieldError, match=r"^results\.name = '.*': must be one folder's name: no / and no"
        ) as caught:
            config()
        assert str(caught.value).isprintable()


def test_names_of_all_languages_are_taken_and_an_empty_option_is_not(tmp_path: Path) -> None:
    for name in ("first", "20261125-shapes10-seed1", "Käfer 甲虫", "seed=1,alpha=0.5", ".hidden", ""):
        assert parse_config({**default_config(), "results.name": name}).results.name == name
    with pytest.raises(FedShieldError, match=r"^--name '': is empty; give the name of a folder, or leave --name out"):
        new_or_stored(None, None, tmp_path, "", None, "federation")
