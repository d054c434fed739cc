"""``model.weights``: a run begins with weights of a file, of a run or of torchvision's, and says which."""

import hashlib
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.factory import make_model
from server.run_directory.given_weights import begin_with_given, fit_given, told_of_given
from server.run_directory.restored import changed_keys, whole_weights
from simulations.centralized import train_centrally
from simulations.export.formats import export_run
from simulations.reports.html.run_page import run_page
from tests.helpers.runs import figures, run, run_in_parts, same, weights
from tests.helpers.settings import tiny_config, tiny_flat

LITTLE = {"federation__rounds": 1, "evaluate__final_attacks": "", "diagnosis__enabled": False}
STILL = {**LITTLE, "train__local_epochs": 0}  # nobody trains: what comes out is what went in


def drawn(config: RunConfig, seed: int = 9, classes: int = 10) -> dict[str, torch.Tensor]:
    """Other weights for the same network."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in make_model(config, classes).state_dict().items()
    }


def begun(config: RunConfig, classes: int = 10) -> dict[str, torch.Tensor]:
    model = make_model(config, classes)
    fit_given(config, model)
    return model.state_dict()


def test_a_federation_begins_with_the_weights_of_a_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = drawn(tiny_config())
    save_file(state, "mine.safetensors")
    path = run(tmp_path, "still", **STILL, model__weights="mine.safetensors")
    for name, value in weights(path).items():  # a mean of ten equal numbers, up to rounding
        assert torch.allclose(value, state[name], rtol=1e-6), name
    assert json.loads((path / "config.json").read_text())["model"]["weights"] == str(tmp_path / "mine.safetensors")
    told = json.loads((path / "environment.json").read_text())["weights"]
    digest = hashlib.sha256((tmp_path / "mine.safetensors").read_bytes()).hexdigest()
    assert told == {"from": str(tmp_path / "mine.safetensors"), "sha256": digest}
    facts = {fact.label: (fact.value, fact.detail) for fact in run_page(path).facts}
    assert facts["began with weights of"] == ("mine.safetensors", f"SHA-256 {digest[:16]}…")
    card = export_run(path, "safetensors")[1].read_text()
    assert f"Training began with given weights: mine.safetensors (SHA-256 {digest})." in card.replace("\\", "")
    (exported,) = path.rglob("model.safetensors")
    assert same(begun(tiny_config(model__weights=str(exported))), weights(path))


def test_a_run_goes_on_from_another_run_and_after_a_stop_it_goes_on_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path, "first", **LITTLE)
    monkeypatch.chdir(tmp_path)
    settings = {**LITTLE, "federation__rounds": 2, "model__weights": "first"}
    whole = run(tmp_path, "whole", **settings)
    told = json.loads((whole / "environment.json").read_text())["weights"]
    assert changed_keys(tiny_flat(**{**settings, "model__weights": str(first)}), tiny_config(**settings)) == {}
    assert (told["from"], told["round"]) == (str(first), 1)
    assert {fact.label: fact.value for fact in run_page(whole).facts}["began with weights of"] == "first, round 1"
    again = run(tmp_path, "again", **{**settings, "model__weights": str(first)})
    parts = run_in_parts(tmp_path, lambda reply: reply.server_round == 2, **settings)
    assert same(weights(whole), weights(again))
    assert same(weights(whole), weights(parts))
    assert figures(whole) == figures(parts)
    assert not same(weights(whole), weights(run(tmp_path, "new", **{**settings, "model__weights": ""})))
    # After a finished round nothing is read of the weights any more.
    config = tiny_config(model__weights=str(tmp_path / "gone"), results__resume=str(whole))
    assert begin_with_given(config, make_model(config, 10)) == {}


def test_centralized_training_and_the_warm_start_begin_with_them_too(tmp_path: Path) -> None:
    state = drawn(tiny_config())
    save_file(state, tmp_path / "mine.safetensors")
    given = {"model__weights": str(tmp_path / "mine.safetensors"), "seed": 3}
    slow = {"train__learning_rate": 1e-30, "train__weight_decay": 0.0}  # the weights stay, all but the statistics
    alone = tiny_config(
        results__dir=str(tmp_path), results__name="one", centralized__epochs=1, **LITTLE, **given, **slow
    )
    warm = run(tmp_path, "warm", **STILL, **{**given, **slow}, sharing__warm_start_epochs=1)
    for path in (train_centrally(alone), warm):
        ended = weights(path)
        for name, _ in make_model(alone, 10).named_parameters():
            assert torch.allclose(ended[name], state[name], rtol=1e-6), name
        assert not same(ended, state)  # statistics of the images have been gathered
        assert "weights" in json.loads((path / "environment.json").read_text())


def test_a_last_layer_for_other_classes_begins_anew_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(model__weights=str(tmp_path / "seven.safetensors"))
    state = drawn(config, classes=7)
    save_file(state, tmp_path / "seven.safetensors")
    logging.getLogger("fedshield").addHandler(caplog.handler)
    try:
        found = begun(config)
    finally:
        logging.getLogger("fedshield").removeHandler(caplog.handler)
    new, last = make_model(config, 10).state_dict(), [*state][-1].rpartition(".")[0]
    for name in new:
        assert torch.equal(found[name], new[name] if name.startswith(f"{last}.") else state[name]), name
    assert (
        f"its last layer is made for 7 classes, here there are 10: {last}.weight, {last}.bias begin anew" in caplog.text
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda state: state | {"1.weight": torch.zeros(3, 3, 3, 3)},
            "1.weight has the shape [3, 3, 3, 3] there, and has the shape [2, 3, 3, 3] in",
        ),
        (
            lambda state: {name: state[name] for name in state if name != "1.weight"},
            "1.weight is missing there, and has the shape [2",
        ),
        (
            lambda state: state | {"99.bias": torch.zeros(5)},
            "99.bias has the shape [5] there, and is missing in the network",
        ),
        (lambda state: state | {"2.weight": torch.full((2,), torch.nan)}, "2.weight contains nan or infinity"),
        (
            lambda state: state | {"2.weight": torch.ones(2, dtype=torch.int64)},
            "2.weight is of torch.int64, without fractions",
        ),
    ],
)
def test_weights_of_another_network_are_refused_in_one_line(tmp_path: Path, change: object, says: str) -> None:
    config = tiny_config(model__weights=str(tmp_path / "other.safetensors"))
    save_file(change(drawn(config)), tmp_path / "other.safetensors")  # type: ignore[operator]
    with pytest.raises(FedShieldError) as error:
        begun(config)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_weights_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(FedShieldError, match=r"text.safetensors: not a safetensors file"):
        begun(tiny_config(model__weights="text.safetensors"))
    for there in ("nowhere.safetensors", str(tmp_path / "nowhere")):
        with pytest.raises(
            FedShieldError, match=r"no file or run .*nowhere.*give FILE\.safetensors, a run directory, or"
        ):
            begun(tiny_config(model__weights=there))
    (tmp_path / "folder").mkdir()
    with pytest.raises(FedShieldError, match=r"model.weights = .*folder: not a run's directory, or none of its rounds"):
        begun(tiny_config(model__weights="folder"))
    with pytest.raises(
        FedShieldError, match=r"model\.name = cnn is not torchvision's; set model.name to torchvision:NAME"
    ):
        tiny_config(model__weights="torchvision")
    assert whole_weights(tiny_config()) == tiny_config()


def test_a_run_that_has_not_got_to_its_first_round_goes_on_with_the_same_weights_only(tmp_path: Path) -> None:
    config = tiny_config(model__weights=str(tmp_path / "mine.safetensors"))
    save_file(drawn(config), tmp_path / "mine.safetensors")
    told = told_of_given(config, begin_with_given(config, make_model(config, 10)), tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps({"kind": "federation", **told}))
    told_of_given(config, begin_with_given(config, make_model(config, 10)), tmp_path)
    save_file(drawn(config, seed=10), tmp_path / "mine.safetensors")
    with pytest.raises(FedShieldError, match=r"has changed since .* was started"):
        told_of_given(config, begin_with_given(config, make_model(config, 10)), tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub folder of PyTorch's, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_torchvisions_weights_come_from_its_folder_and_a_failed_download_is_one_line(hub: Path) -> None:
    import torchvision

    name = "squeezenet1_1"
    config = tiny_config(model__name=f"torchvision:{name}", model__weights="torchvision")
    weights_of = torchvision.models.get_model_weights(name).DEFAULT
    with pytest.raises(FedShieldError) as error:
        begun(config)
    assert str(hub / Path(weights_of.url).name) in str(error.value)
    assert weights_of.url in str(error.value)
    assert "\n" not in str(error.value)
    published: nn.Module = torchvision.models.get_model(name, weights=None)
    hub.mkdir(parents=True, exist_ok=True)
    torch.save(published.state_dict(), hub / Path(weights_of.url).name)
    theirs, ours = published.state_dict(), begun(config)
    assert {key.removeprefix("1.") for key in ours} == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[f"1.{key}"], value) or key.startswith("classifier.1."), key
    assert ours["1.classifier.1.weight"].shape[0] == 10
